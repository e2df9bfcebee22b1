"""Which requests are answered before the framework, and what a connection goes through."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from gateway.access import AccessLog
from gateway.body import gone
from gateway.doors import Doors
from gateway.fast import FastPredict
from gateway.keys import Keys
from gateway.metrics import Metrics
from gateway.settings import Settings
from gateway.stopping import Stopping
from gateway.triton import Triton
from gateway.versions import Versions
from tests.gateway.stand_in import StandIn

OBSERVATION = {"speed": 25.5, "steering": 0.1, "sensors": [0.8, 0.2, 0.5, 0.9, 0.1]}


def body(**fields: Any) -> bytes:
    return json.dumps({"observations": [OBSERVATION], **fields}).encode()


def request(content: bytes, *headers: str, start: str = "POST /predict HTTP/1.1") -> bytes:
    head = [start, "Host: x", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + content


@pytest.fixture(scope="module")
def served(triton_http: str) -> Versions:
    """Versions as the real Triton serves them."""
    triton = Triton(f"http://{triton_http}")
    versions = Versions(triton, None, Metrics())

    async def look() -> None:
        await versions.refresh()
        await triton.close()

    asyncio.run(look())
    return versions


def fast_way(settings: Settings, doors: Doors, served: Versions) -> FastPredict:
    predictor: Any = None
    access = AccessLog(settings)
    return FastPredict(settings, doors, served, predictor, Metrics(), Stopping(0), access)


@pytest.fixture(scope="module")
def read(served: Versions) -> Callable[[bytes], Any]:
    """Whether the fast way takes a request."""
    return fast_way(Settings(), Doors(Settings(), None), served).read


@pytest.mark.parametrize(
    "data",
    [
        request(body()),
        request(body(deterministic=True), "Content-Type: application/json"),
        request(body(seed=3), "X-Request-ID: a-1", "Connection: keep-alive"),
        request(body(version="v0.2.0"), "User-Agent: x", "Accept: */*"),
        request(body(), "X-Deadline-Ms: 50"),
        request(body(), "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        request(body(), "TraceState: a=1,b=2", "Traceparent:x"),
    ],
)
def test_usual(read: Any, data: bytes) -> None:
    assert read(data) is not None
    assert read(data) is not None  # by the head that is known now


@pytest.mark.parametrize(
    "data",
    [
        request(body(seed=3.0)),
        request(body(version="v7.0.0")),
        request(body(typo=1)),
        request(b"{"),
        request(body())[:-1],
        request(body()) + b"x",
        request(body(), "Origin: http://example.org"),
        request(body(), "Content-Type: text/plain"),
        request(body(), "Connection: close"),
        request(body(), "Transfer-Encoding: chunked"),
        request(body(), f"Content-Length: {len(body())}"),
        request(body(), "Expect: 100-continue"),
        request(body(), "X-Request-ID: not sane"),
        request(body(), "X-Request-ID: a", "X-Request-ID: b"),
        request(body(), "Bad Header: 1"),
        request(body(), "traceparent: a\r\n folded"),
        request(body(), "traceparent: \x01"),
        request(body(), "X-Deadline-Ms: 0"),
        request(body(), "X-Deadline-Ms: 5.5"),
        request(body(), "X-Deadline-Ms: 5", "X-Deadline-Ms: 5"),
        request(body(), start="POST /predict?x=1 HTTP/1.1"),
        request(body(), start="POST /predict/ HTTP/1.1"),
        request(body(), start="PUT /predict HTTP/1.1"),
        request(body(), start="POST /predict HTTP/1.0"),
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_unusual(read: Any, data: bytes) -> None:
    assert read(data) is None
    assert read(data) is None


def test_keys(served: Versions) -> None:
    """A head is remembered with its verdict, until there are other keys."""
    settings = Settings()
    good, other = (hashlib.sha256(key).hexdigest() for key in (b"a-good-key", b"another"))
    doors = Doors(settings, Keys((good,)))
    fast = fast_way(settings, doors, served)
    with_key = request(body(), "X-API-Key: a-good-key")
    for _ in range(2):
        head, _, _ = fast.read(with_key) or pytest.fail("a good key is unusual")
        assert head.holder == good
        assert fast.read(request(body(), "X-API-Key: another")) is None
        assert fast.read(request(body())) is None
    doors.configure(settings, Keys((other,)))
    fast.configure(settings)
    assert fast.read(with_key) is None
    assert fast.read(request(body(), "Authorization: Bearer another")) is not None


def test_a_smaller_body_limit_counts_for_heads_that_came_before(served: Versions) -> None:
    fast = fast_way(Settings(), Doors(Settings(), None), served)
    data = request(body())
    assert fast.read(data) is not None
    fast.configure(Settings(max_body_bytes=len(body()) - 1))
    assert fast.read(data) is None


def exchange(url: str, *pieces: bytes, answers: int = 1, pause: float = 0.0) -> bytes:
    """Send pieces over one connection; give all that came until so many answers did."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=10) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        received = b""
        while received.count(b"HTTP/1.1 ") < answers or not received.endswith(b"}"):
            part = connection.recv(65536)
            if not part:
                break
            received += part
    return received


def test_pipelined_requests_are_answered_in_order(gateway_url: str) -> None:
    """Usual and unusual ones mixed, all sent at once."""
    pieces = [
        request(body(deterministic=True), "X-Request-ID: a"),
        request(body(deterministic=True), "X-Request-ID: b", "Origin: http://example.org"),
        request(b"{", "X-Request-ID: c"),
        request(body(deterministic=True), "X-Request-ID: d"),
    ]
    for split in (pieces, [b"".join(pieces)], [b"".join(pieces[:2]), b"".join(pieces[2:])]):
        received = exchange(gateway_url, *split, answers=4)
        ids = [
            line[-1:]
            for line in received.lower().split(b"\r\n")
            if line.startswith(b"x-request-id")
        ]
        assert ids == [b"a", b"b", b"c", b"d"]
        assert received.count(b"HTTP/1.1 200") == 3


def test_a_request_in_pieces(gateway_url: str) -> None:
    data = request(body(deterministic=True))
    whole = exchange(gateway_url, data)
    for cut in (1, 10, data.index(b"\r\n\r\n") + 2, len(data) - 1):
        pieces = exchange(gateway_url, data[:cut], data[cut:], pause=0.05)
        assert (
            pieces.rpartition(b"\r\n")[2].split(b'"version"')[0]
            == (whole.rpartition(b"\r\n")[2].split(b'"version"')[0])
        )


def test_who_hangs_up_while_waiting_is_never_sent(
    run_gateway: Callable[..., str], stand_in: StandIn
) -> None:
    """On a real connection, by both ways; only the stand-in can be made to keep others waiting."""
    url = run_gateway(TRITON_URL=stand_in.url, CALLS_IN_FLIGHT="1", REQUEST_TIMEOUT_MS="700")
    stand_in.mode = "hang"
    stand_in.calls.clear()
    address = httpx.URL(url)
    connections = [socket.create_connection((address.host, address.port)) for _ in range(4)]
    for connection, (speed, headers) in zip(
        connections, [(1, ()), (2, ()), (3, ("Origin: http://x",)), (4, ())], strict=True
    ):
        seen = {**OBSERVATION, "speed": speed}
        connection.sendall(request(json.dumps({"observations": [seen]}).encode(), *headers))
        time.sleep(0.05)
    connections[1].close()
    connections[2].close()
    time.sleep(0.1)
    stand_in.mode = "ok"
    connections[3].settimeout(5)
    assert b"HTTP/1.1 " in connections[3].recv(4096)
    sent = [row for call in stand_in.calls for row in call["speed"][:, 0].tolist()]
    assert 1 in sent
    assert not {2, 3} & set(sent)
    for connection in connections:
        connection.close()


def test_gone_never_waits() -> None:
    async def test() -> None:
        event = asyncio.Event()

        async def waiting() -> Any:
            await event.wait()
            return {"type": "http.disconnect"}

        assert not gone(waiting)
        assert not gone(waiting)
        event.set()
        assert gone(waiting)

    asyncio.run(test())
