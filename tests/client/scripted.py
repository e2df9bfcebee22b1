"""A real HTTP server that answers as its script says, and remembers what it was asked."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.http_server import HttpServer

ACTION = {"throttle": 0.5, "brake": 0.0, "steer": -0.25}
GOOD = {"actions": [ACTION], "version": "v0.2.0", "timingMs": 0.5, "deterministic": True}


@dataclass
class Answer:
    """One answer: `drop` ends the connection instead, `drip_s` passes before each byte."""

    status: int = 200
    content: Any = field(default_factory=lambda: GOOD)
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    drip_s: float = 0.0


def error(status: int, code: str, **headers: str) -> Answer:
    content = {"error": code, "message": "so it is", "details": {"request_id": "abc"}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, content, named)


class Scripted(HttpServer):
    """Return its `answers` in turn, the last one for ever."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = [Answer()]
        self.requests: list[dict[str, Any]] = []
        self.heads: list[dict[str, str]] = []
        self.connections: set[Any] = set()
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Scripted

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(json.loads(body or b"{}"))
        self.server.heads.append({name.lower(): value for name, value in self.headers.items()})
        self.server.connections.add(self.client_address)
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer.drop:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        data, asked = answer.content, self.server.requests[-1]
        if data is GOOD and not asked.get("deterministic", True):
            data = {**GOOD, "deterministic": False, "seed": asked.get("seed", 7)}
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if not answer.drip_s:
            self.wfile.write(data)
            return
        for byte in data:
            if self.server.released.wait(answer.drip_s):
                return
            self.wfile.write(bytes([byte]))
            self.wfile.flush()

    do_GET = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""


@contextmanager
def scripted() -> Iterator[Scripted]:
    with Scripted() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


@contextmanager
def silent() -> Iterator[str]:
    """The URL of a listener that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def nobody() -> str:
    """A URL where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"
