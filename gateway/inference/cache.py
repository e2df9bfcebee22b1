"""A cache of actions, for deterministic requests alone."""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

from gateway.observability.metrics import Metrics
from gateway.triton.batch import Rows

ENTRY_BYTES = 260
"""Memory of one entry beside its key and its action: measured with tracemalloc, rounded up."""


class Cache:
    """The actions used last, bounded in bytes.

    The key is a hash of the artifact's digest and every byte of the observation. So a hit is what
    Triton gave for exactly this input and this version.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        self.bytes = 0

    def keys(self, digest: str, rows: Rows) -> list[bytes]:
        """Return the key of each row."""
        prefix = digest.encode()
        contents = (b"".join((prefix, *row)) for row in rows.contents())
        return [blake2b(content, digest_size=32).digest() for content in contents]

    def look_up(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the action of each key, or None; count hits and misses."""
        found = [self._entries.get(key) for key in keys]
        hits = 0
        for key, action in zip(keys, found, strict=True):
            if action is not None:
                self._entries.move_to_end(key)
                hits += 1
        self._metrics.looked_up(hits, len(keys) - hits)
        return found

    def store(self, key: bytes, action: bytes, max_bytes: int) -> None:
        """Remember an action, and forget the oldest ones above `max_bytes`.

        Keys and overhead count.
        """
        if key in self._entries:
            return
        self._entries[key] = action
        self.bytes += len(key) + len(action) + ENTRY_BYTES
        self.shrink(max_bytes)

    def shrink(self, max_bytes: int) -> None:
        """Forget the oldest actions until at most `max_bytes` are held."""
        while self.bytes > max_bytes:
            old_key, old_action = self._entries.popitem(last=False)
            self.bytes -= len(old_key) + len(old_action) + ENTRY_BYTES
