"""nginx and HAProxy in front of a real server: connections to it are kept, headers are written."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler

import httpx
import pytest

from perf.studies import proxies
from tests.http_server import HttpServer


class Upstream(HttpServer):
    """Answers everything with 200, and remembers connections and headers."""

    def __init__(self) -> None:
        self.connections = 0
        self.forwarded_for: str | None = None
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        self.server.forwarded_for = self.headers["X-Forwarded-For"]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("name", list(proxies.PROXIES))
def test_connections_to_the_server_are_kept(name: str, upstream: Upstream) -> None:
    with ExitStack() as stack:
        try:
            url = stack.enter_context(
                proxies.proxy(name, f"http://127.0.0.1:{upstream.server_port}")
            )
        except proxies.MissingError as missing:
            if os.environ.get("CI"):
                raise
            pytest.skip(str(missing))
        before = upstream.connections
        for _ in range(20):  # each caller has a connection of its own
            assert httpx.get(url, trust_env=False).status_code == 200
        assert upstream.connections <= before + 1
        assert upstream.forwarded_for == "127.0.0.1"
