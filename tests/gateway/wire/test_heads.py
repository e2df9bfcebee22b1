"""A head has at most 64 KB and 200 lines; one that is larger is refused before it ends."""

from __future__ import annotations

import select
import time
from typing import Any

import pytest

from tests.gateway.wire.memory import Memory
from tests.gateway.wire.wire import (
    GOOD,
    PROBE,
    SEGMENT_S,
    Connection,
    check_error,
    check_last,
    goes_on,
    request,
)

LIMIT = 64 << 10
LINES = 200
SOON_S = 2.0
SLACK = 4 << 20
"""What the kernel takes from a caller beyond what the gateway has read."""


def long(size: int) -> str:
    return "X-Long: " + "a" * size


def of_lines(count: int) -> bytes:
    """Write a request with so many header lines in all."""
    own = request().split(b"\r\n\r\n")[0].count(b"\r\n")
    return request(GOOD, *(f"X-{number}: a" for number in range(count - own)))


def of_size(size: int) -> bytes:
    """Write a request whose head has so many bytes."""
    own = len(request(GOOD, long(0))) - len(GOOD)
    return request(GOOD, long(size - own))


@pytest.mark.parametrize(
    "data",
    [request(GOOD, long(60_000)), of_size(LIMIT - 100), of_lines(LINES), of_lines(150)],
    ids=["60 KB in one header", "just below the limit", "200 lines", "150 lines"],
)
def test_what_passes(gateway_url: str, actions: Any, data: bytes) -> None:
    top = data[: data.index(b"\r\n\r\n") + 4]
    with Connection(gateway_url) as connection:
        for segments in ((data,), (data[:30_000], data[30_000:]), (top, data[len(top) :])):
            assert connection.send(*filter(None, segments)).answer().actions() == actions
        connection.send(data * 3)
        assert [connection.answer().actions() for _ in range(3)] == [actions] * 3
        assert goes_on(connection, actions)


TOO_LARGE = {
    "one header": of_size(LIMIT + 100),
    "201 lines": of_lines(LINES + 1),
    "1,000 lines": of_lines(1000),
    "many headers of some size": request(GOOD, *(long(999) for _ in range(70))),
    "a long path": request(None, method="GET", target="/" + "a" * (LIMIT + 100)),
    "a long query": request(target="/predict?" + "a" * (LIMIT + 100)),
    "a long header's name": request(GOOD, "X-" + "a" * LIMIT + ": a"),
    "a get's": request(None, long(LIMIT), method="GET", target="/livez"),
}


@pytest.mark.parametrize("segments", [1, 4])
@pytest.mark.parametrize("kind", TOO_LARGE)
def test_what_is_refused(gateway_url: str, kind: str, segments: int) -> None:
    data = TOO_LARGE[kind]
    size = len(data) // segments + 1
    with Connection(gateway_url) as connection:
        for at in range(0, len(data), size):
            if at and select.select([connection.socket], [], [], SEGMENT_S)[0]:
                break  # it was refused before its end
            connection.send(data[at : at + size])
        check_last(connection, 431, "HTTP_ERROR")


def test_behind_good_requests(gateway_url: str, actions: Any) -> None:
    with Connection(gateway_url) as connection:
        connection.send(request() * 2 + TOO_LARGE["one header"])
        assert [connection.answer().actions() for _ in range(2)] == [actions] * 2
        check_last(connection, 431, "HTTP_ERROR")
    with Connection(gateway_url) as connection:
        assert goes_on(connection, actions)
        connection.send(TOO_LARGE["201 lines"])
        check_last(connection, 431, "HTTP_ERROR")


ENDLESS = {
    "one header": (b"X-Long: ", b"a" * 16_384),
    "lines": (b"", b"X-Short: a\r\n" * 50),
    "blank values": (b"X-Blank: ", b" " * 16_384),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_one_that_never_ends_is_cut_off_at_once(gateway_url: str, kind: str) -> None:
    """At the limit, not by its time; the caller reads why."""
    first, piece = ENDLESS[kind]
    with Connection(gateway_url) as connection:
        began, sent = time.monotonic(), 0
        connection.send(b"POST /predict HTTP/1.1\r\nHost: x\r\n" + first)
        while not select.select([connection.socket], [], [], 0.01)[0]:
            connection.send(piece)
            sent += len(piece)
            assert time.monotonic() < began + SOON_S, f"{sent} bytes were taken"
        check_error(connection.answer(), 431, "HTTP_ERROR")
        assert sent < 2 * LIMIT


def test_a_large_one_takes_no_memory(own_gateway: str) -> None:
    """Megabytes of it, sent as fast as they go, by ten callers; others are served meanwhile."""
    data = b"POST /predict HTTP/1.1\r\nHost: x\r\n" + b"X-Short: a\r\n" * 700_000
    with Connection(own_gateway) as other:
        assert other.send(PROBE).answer().status == 200
        with Memory(own_gateway) as memory:
            for _ in range(10):
                with Connection(own_gateway) as connection:
                    began = time.monotonic()
                    taken = 0
                    try:
                        while taken < len(data):
                            taken += connection.socket.send(data[taken : taken + 65536])
                    except ConnectionError:
                        pass
                    assert taken < SLACK * 2, "all of it was taken"
                    assert time.monotonic() < began + SOON_S
                    assert other.send(PROBE).answer().status == 200
        assert memory.grown < 16 << 20
