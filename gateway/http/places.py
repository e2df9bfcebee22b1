"""Places for connections: how many there may be at a time."""

import resource
from typing import Protocol
from weakref import WeakSet

from gateway.config.live import LiveSettings

RESERVED = 64
"""Connections beyond `MAX_CONNECTIONS`: each may send one request, so that probes are served."""
OTHER_FILES = 200 + RESERVED
"""Most files that a gateway opens beside its callers' connections."""


class Droppable(Protocol):
    """A connection that can lose its place to another one."""

    def drop(self) -> None:
        """End the connection at once."""


def allowed_connections(wanted: int) -> int:
    """Return `wanted`, or fewer where the limit of open files is too low."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if files == resource.RLIM_INFINITY else max(1, min(wanted, files - OTHER_FILES))


class Places:
    """The places of one process: `MAX_CONNECTIONS`, and `RESERVED` more for probes.

    When the reserved places are taken, too, the oldest of these connections is dropped. So nobody
    keeps probes out by holding connections.
    """

    def __init__(self, live: LiveSettings) -> None:
        self._live = live
        self._beyond: dict[Droppable, None] = {}
        self._handshakes = WeakSet[Droppable]()  # weak: a failed one is not reported

    def expect(self, connection: Droppable) -> None:
        """Reserve a place for a connection during its TLS handshake."""
        self._handshakes.add(connection)

    def take(self, connection: Droppable, others: int) -> bool:
        """Assign a place to a connection beside `others`; return whether it is a reserved one."""
        self._handshakes.discard(connection)
        limit = allowed_connections(self._live.now.max_connections)
        if others - len(self._beyond) + len(self._handshakes) < limit:
            return False
        if len(self._beyond) >= RESERVED:
            oldest = next(iter(self._beyond))
            self.leave(oldest)
            oldest.drop()
        self._beyond[connection] = None
        return True

    def leave(self, connection: Droppable) -> None:
        """Free the place of a connection."""
        self._beyond.pop(connection, None)
