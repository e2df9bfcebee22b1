"""TLS handshakes that do not come: they are ended, and are connections while they last."""

from __future__ import annotations

import contextlib
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.gateway.certificates import make
from tests.gateway.processes import until
from tests.gateway.wire.wire import Answer, Connection, check_error, request
from tests.stack import running_stack

MOST = 4
HANDSHAKE_S = 5.0
PROBE = request(None, method="GET", target="/livez")


def hello(context: ssl.SSLContext) -> bytes:
    """The bytes with which a client begins."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1").do_handshake()
    return outgoing.read()


def lasts_s(connection: Connection, drop: bytes) -> float:
    """How long a connection lasts that sends a byte now and then and never reads a record."""
    began = time.monotonic()
    connection.socket.settimeout(0.25)
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < began + 2 * HANDSHAKE_S:
            with contextlib.suppress(TimeoutError):
                if not connection.socket.recv(65536):
                    break
            if drop:
                connection.socket.sendall(drop[:1])
                drop = drop[1:]
    return time.monotonic() - began


@pytest.mark.reliability
def test_handshakes_that_do_not_come(tmp_path: Path, triton_url: str) -> None:
    """Mute, half sent, sent byte by byte, and one that is left alone after the server's part."""
    certificates = make(tmp_path)
    context = ssl.create_default_context(cafile=str(certificates.authority))
    flags = ["--ssl-certfile", certificates.certificate, "--ssl-keyfile", certificates.key]
    variables = {"TRITON_URL": triton_url, "MAX_CONNECTIONS": str(MOST)}
    with running_stack(*map(str, flags), **variables) as served, ThreadPoolExecutor() as pool:
        url = served.gateway_url

        def answer(data: bytes) -> Answer:
            with Connection(url, context) as connection:
                return connection.send(data).answer()

        until(lambda: answer(request()).status == 200)
        data = hello(context)
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(Connection(url)) for _ in range(MOST)]
            held[1].send(data[:50])
            held[3].send(data)
            drops = (b"", b"", data, b"")
            lasting = [
                pool.submit(lasts_s, one, drop) for one, drop in zip(held, drops, strict=True)
            ]
            time.sleep(0.5)
            assert answer(PROBE).status == 200
            check_error(answer(request()), 503, "SERVICE_UNAVAILABLE")
            seconds = [one.result() for one in lasting]
        assert all(HANDSHAKE_S - 1 < one < HANDSHAKE_S + 1.5 for one in seconds), seconds
        until(lambda: answer(request()).status == 200, 3)
