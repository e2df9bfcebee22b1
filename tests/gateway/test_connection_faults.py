"""What was found by breaking connections: each of these lost an answer, or held up others."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.gateway.processes import OBSERVATION, check_envelope, predict, until
from tests.gateway.stand_in import StandIn
from tests.gateway.wire.wire import PROBE, Connection, head, request

UPGRADE = (
    b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
REFUSED = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
UNHEEDED = REFUSED.replace(b"Host: x", b"Host: x\r\nConnection: Upgrade\r\nUpgrade: x")


@pytest.fixture
def url(run_gateway: Callable[..., str], stand_in: StandIn) -> str:
    return run_gateway(TRITON_URL=stand_in.url, REQUEST_TIMEOUT_MS="2000")


@contextlib.contextmanager
def held(stand_in: StandIn) -> Iterator[None]:
    """Let Triton answer callers only after the block."""
    stand_in.mode = "held"
    try:
        yield
        time.sleep(0.2)
    finally:
        stand_in.go.set()


def received(connection: Connection) -> bytes:
    """All that comes until the gateway ends the connection."""
    connection.socket.settimeout(10)
    parts = [b""]
    with contextlib.suppress(ConnectionError):
        while part := connection.socket.recv(1 << 20):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("one", [REFUSED, UNHEEDED], ids=["refused", "unheeded upgrades"])
def test_many_requests_at_once_hold_nobody_up(url: str, one: bytes) -> None:
    """The first hundred are answered, then the connection ends."""
    longest = 0.0
    with Connection(url) as connection, Connection(url) as other:
        sender = threading.Thread(target=connection.socket.sendall, args=(one * 3000,), daemon=True)
        sender.start()
        for _ in range(50):
            began = time.monotonic()
            assert other.send(PROBE).answer().status == 200
            longest = max(longest, time.monotonic() - began)
        got = received(connection)
    assert got.count(b"HTTP/1.1 422") >= 100
    assert longest < 0.5


@pytest.mark.parametrize(
    "behind", [UPGRADE, b"GARBAGE\r\n\r\n", b"GARBAGE\r\n\r\n" + b"x" * 2_000_000]
)
def test_what_comes_behind_a_good_request_costs_it_nothing(
    url: str, stand_in: StandIn, behind: bytes
) -> None:
    with Connection(url) as connection:
        with held(stand_in):
            data = request() + behind
            threading.Thread(target=_send, args=(connection, data), daemon=True).start()
        got = received(connection)
    assert got.startswith(b"HTTP/1.1 200")
    assert got.count(b"HTTP/1.1 400") == 1


def _send(connection: Connection, data: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.socket.sendall(data)


def test_the_word_to_go_on_is_in_no_other_answer(url: str) -> None:
    expecting = head("Expect: 100-continue", "Content-Length: 2")
    page = b"GET /console/track.js HTTP/1.1\r\nHost: x\r\n\r\n"
    for _ in range(50):
        with Connection(url) as connection:
            connection.send(page + expecting)
            answer = connection.answer()
            assert answer.status == 200
            assert answer.interim == ()
            assert b"100 Continue" not in answer.body
            answer = connection.send(b"{}").answer()
            assert answer.status == 422


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize("target", ["/warmup", "/nowhere", "/predict"])
def test_an_early_answer_that_ends_the_connection_is_not_lost(
    url: str, target: str, version: str
) -> None:
    start = (
        f"POST {target} {version}\r\nHost: x\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    )
    data = start.encode() + b"Content-Length: 900000\r\n\r\n" + b"x" * 900_000
    for _ in range(5):
        with Connection(url) as connection:
            connection.socket.sendall(data)
            assert received(connection)[9:12] in (b"415", b"404")


def test_a_version_that_is_asked_for_first_keeps_the_deadline(url: str, stand_in: StandIn) -> None:
    right = stand_in._config

    def slow(model: str, version: str) -> dict:
        if version == "v0.1.0":
            time.sleep(0.9)
        return right(model, version)

    stand_in._config = slow  # type: ignore[method-assign]
    try:
        began = time.monotonic()
        answer = httpx.post(
            url + "/predict",
            json={"observations": [OBSERVATION], "version": "v0.1.0"},
            headers={"X-Deadline-Ms": "100"},
        )
        assert time.monotonic() - began < 0.7
        check_envelope(answer, 504, "DEADLINE_EXCEEDED")
    finally:
        stand_in._config = right  # type: ignore[method-assign]


@pytest.mark.parametrize("target", [b"*", b"http://x", b"x:1"])
def test_an_odd_target_is_no_fault_of_ours(url: str, target: bytes) -> None:
    with Connection(url) as connection:
        connection.socket.sendall(UPGRADE.replace(b"/stream", target))
        connection.socket.settimeout(5)
        assert connection.socket.recv(65536)[9:10] == b"4"
    assert predict(url).status_code == 200


def test_a_stream_behind_a_refusal_works_or_ends(
    run_gateway: Callable[..., str], stand_in: StandIn
) -> None:
    url = run_gateway(TRITON_URL=stand_in.url, MAX_WAITING="0", CALLS_IN_FLIGHT="1")
    with held(stand_in), Connection(url) as busy, Connection(url) as connection:
        busy.send(request())
        until(lambda: len(stand_in.calls) == 1)
        connection.socket.sendall(request() + UPGRADE)
        got = received(connection)
        assert got.startswith(b"HTTP/1.1 429")
        assert got.count(b"HTTP/1.1 400") == 1
