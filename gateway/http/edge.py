"""What all connections of a process share: who may have a place, and what answers carry."""

import resource
from typing import Protocol
from weakref import WeakSet

from gateway.api.request_head import RequestHead
from gateway.config.live import LiveSettings
from gateway.http.cors import Cors
from gateway.http.graceful_shutdown import GracefulShutdown
from gateway.inference.service import Service
from gateway.security.backoff import Backoff
from gateway.stream.session import Streams

RESERVED = 64
"""Places beyond `MAX_CONNECTIONS`, for one request each: probes find one of them."""
OTHER_FILES = 200 + RESERVED
"""Files that a gateway has open beside its callers' connections, at most."""

Pair = tuple[bytes, bytes]


class Droppable(Protocol):
    """A connection that gives its place to another one."""

    def drop(self) -> None:
        """End the connection at once."""


def allowed_connections(wanted: int) -> int:
    """Return how many connections there may be: fewer than `wanted` where files do not suffice."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if files == resource.RLIM_INFINITY else max(1, min(wanted, files - OTHER_FILES))


class Places:
    """Places for connections: so many, and `RESERVED` ones beyond.

    Where those are taken, too, the oldest of them is dropped: whoever holds one without a request
    keeps no probe out.
    """

    def __init__(self, live: LiveSettings) -> None:
        """Have `MAX_CONNECTIONS` places, or as many as there may be open files."""
        self._live = live
        self._beyond: dict[Droppable, None] = {}
        self._handshakes = WeakSet[Droppable]()  # one that fails tells nobody

    def expect(self, connection: Droppable) -> None:
        """Give a place to a connection that is made as soon as its TLS handshake is done."""
        self._handshakes.add(connection)

    def take(self, connection: Droppable, others: int) -> bool:
        """Give a place to a connection beside `others`; return whether it is one beyond."""
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
        """Take the place back."""
        self._beyond.pop(connection, None)


class Edge:
    """What connections work with: one for all connections of a process."""

    def __init__(self, service: Service, stopping: GracefulShutdown) -> None:
        """Take what answers `/predict` and `/stream`, and when the gateway stops."""
        self.service = service
        self.streams = Streams(service)
        self.observers = service.observers
        self.stopping = stopping
        self.cors = Cors(service.live)
        self.backoff = Backoff()
        self._defaults: list[Pair] = []
        self._lines = b""
        self.places = Places(service.live)

    def lines_of(self, headers: list[Pair]) -> bytes:
        """Write the headers that uvicorn gives every answer; they change once a second."""
        if headers is not self._defaults:
            self._defaults = headers
            self._lines = b"".join([b"%s: %s\r\n" % pair for pair in headers])
        return self._lines

    def stamps(self, head: RequestHead, request_id: str, seconds: float) -> list[Pair]:
        """Return the headers by which a caller knows whose answer it has, and CORS's.

        Every answer carries them, whoever writes it.
        """
        stamps = [
            (b"x-request-id", request_id.encode()),
            (b"x-process-time", b"%.6f" % seconds),
        ]
        echo = head.echo
        if echo is not None:
            stamps.append((b"x-carlarl-echo", echo))
        stamps += self.cors.headers(head.found)
        return stamps
