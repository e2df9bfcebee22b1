"""Services over raw sockets that answer in ways in which none should."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Request:
    """One request as it came: its headers in lower case, and its JSON."""

    headers: dict[str, str]
    content: dict[str, Any]


@dataclass
class Peer:
    """The service's end of one connection."""

    socket: socket.socket
    ended: threading.Event
    buffer: bytes = b""

    def request(self) -> Request:
        """Read the next request. Raises ConnectionError where the client has gone."""
        while b"\r\n\r\n" not in self.buffer:
            self._read()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        lines = [line.decode().partition(":") for line in head.split(b"\r\n")[1:]]
        headers = {name.lower(): value.strip() for name, _, value in lines}
        length = int(headers.get("content-length", 0))
        while len(self.buffer) < length:
            self._read()
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return Request(headers, json.loads(body or b"{}"))

    def _read(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError
        self.buffer += data

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def drip(self, data: bytes, pause_s: float) -> None:
        """Send a byte at a time, for as long as the client takes it."""
        for byte in data:
            self.send(bytes([byte]))
            if self.ended.wait(pause_s):
                return

    def wait(self, seconds: float) -> None:
        self.ended.wait(seconds)


Serve = Callable[[Peer], None]


@dataclass
class Faulty:
    """Where a faulty service listens, and how many connections it had."""

    port: int
    connections: list[socket.socket] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def faulty(serve: Serve, context: ssl.SSLContext | None = None, port: int = 0) -> Iterator[Faulty]:
    """Let `serve` have each connection in a thread of its own."""
    ended = threading.Event()

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection = listener.accept()[0]
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=talk, args=[connection], daemon=True).start()

    def talk(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            if context is not None:
                connection = context.wrap_socket(connection, server_side=True)
            service.connections.append(connection)
            with connection:
                serve(Peer(connection, ended))

    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        service = Faulty(listener.getsockname()[1])
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield service
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def answer_to(request: Request, *, echo: bool = True, steer: float | None = None) -> bytes:
    """What a good gateway answers; the first action's steer is its observation's."""
    seen = request.content["observations"]
    content = {
        "actions": [
            {"throttle": 0.5, "brake": 0.0, "steer": one["steering"] if steer is None else steer}
            for one in seen
        ],
        "version": request.content.get("version", "v0.2.0"),
        "timingMs": 0.5,
        "deterministic": request.content["deterministic"],
    }
    if not content["deterministic"]:
        content["seed"] = request.content.get("seed", 7)
    body = json.dumps(content).encode()
    token = request.headers.get("x-carlarl-echo")
    line = f"X-Carlarl-Echo: {token}\r\n" if echo and token is not None else ""
    return f"HTTP/1.1 200 OK\r\n{line}Content-Length: {len(body)}\r\n\r\n".encode() + body
