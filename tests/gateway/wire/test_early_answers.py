"""An answer to a head alone comes before the body does, and the body is read and dropped."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.gateway.processes import gateway_process, until
from tests.gateway.wire.memory import Memory
from tests.gateway.wire.proxies import needs, proxy
from tests.gateway.wire.wire import (
    GOOD,
    Connection,
    EndedError,
    ask,
    check_error,
    chunks,
    goes_on,
    head,
    request,
)

SIZE = 1 << 19
BODY = (request(None, method="GET", target="/nothing") * 20_000)[:SIZE]
"""Half of what is allowed; whoever takes it for requests gives thousands of answers."""
KEY = "X-API-Key: a-good-key"
TOO_LARGE = 2 << 20
SLOW_S = 5.0

REFUSED: dict[str, tuple[int, str, int, tuple[str, ...]]] = {
    "no key": (401, "UNAUTHORIZED", SIZE, ()),
    "a wrong key": (401, "UNAUTHORIZED", SIZE, ("X-API-Key: wrong",)),
    "too large": (413, "PAYLOAD_TOO_LARGE", TOO_LARGE, (KEY,)),
    "no type of ours": (415, "UNSUPPORTED_MEDIA_TYPE", SIZE, (KEY, "Content-Type: text/plain")),
    "encoded": (415, "UNSUPPORTED_MEDIA_TYPE", SIZE, (KEY, "Content-Encoding: br")),
    "wrong deadline": (422, "VALIDATION_ERROR", SIZE, (KEY, "X-Deadline-Ms: 0")),
}
CASES = pytest.mark.parametrize(
    ("status", "code", "size", "lines"), REFUSED.values(), ids=list(REFUSED)
)


def body_of(size: int) -> bytes:
    return (BODY * (size // len(BODY) + 1))[:size]


@CASES
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_comes_before_the_body(
    keyed_gateway: str,
    actions: Any,
    framing: str,
    status: int,
    code: str,
    size: int,
    lines: tuple[str, ...],
) -> None:
    """And the connection goes on behind the body, on which a second such request is answered."""
    if framing == "length":
        top, body = head(*lines, f"Content-Length: {size}"), body_of(size)
        sent = 1000
    else:
        top, body = head(*lines, "Transfer-Encoding: chunked"), chunks(body_of(size), 50_000)
        sent = 1000 if status != 413 else 1_200_000  # then only the body itself says it
    with Connection(keyed_gateway) as connection:
        for _ in range(2):
            connection.send(top, body[:sent])
            check_error(connection.answer(seconds=0.8), status, code)
            assert connection.quiet(0.05)
            connection.send(body[sent:-5], body[-5:])
        answer = connection.send(request(GOOD, KEY)).answer()
        assert answer.actions() == actions
        assert connection.quiet(0.05)


@CASES
def test_what_waits_behind_the_body_is_answered(
    keyed_gateway: str, actions: Any, status: int, code: str, size: int, lines: tuple[str, ...]
) -> None:
    """All in one segment."""
    data = request(body_of(size), *lines) + request(GOOD, KEY) * 3
    with Connection(keyed_gateway) as connection:
        connection.send(data)
        check_error(connection.answer(), status, code)
        assert [connection.answer().actions() for _ in range(3)] == [actions] * 3


@pytest.fixture(scope="module")
def limited_gateway(triton_url: str) -> Iterator[str]:
    """URL of a gateway whose rate is used up."""
    limits = {"RATE_LIMIT_PER_S": "0.001", "RATE_LIMIT_BURST": "1"}
    with gateway_process(TRITON_URL=triton_url, **limits) as url:
        until(lambda: ask(url, request()).status == 429)
        yield url


def test_who_sends_too_much(limited_gateway: str) -> None:
    with Connection(limited_gateway) as connection:
        for _ in range(2):
            connection.send(head(f"Content-Length: {SIZE}"), BODY[:1000])
            check_error(connection.answer(seconds=0.8), 429, "RESOURCE_EXHAUSTED")
            connection.send(BODY[1000:])
        assert connection.send(request(None, method="GET", target="/livez")).answer().status == 200
        assert connection.quiet(0.05)


@pytest.mark.parametrize(
    ("method", "target", "status"), [("GET", "/livez", 200), ("PUT", "/x", 404)]
)
def test_other_routes_do_not_wait_for_a_body(
    gateway_url: str, actions: Any, method: str, target: str, status: int
) -> None:
    with Connection(gateway_url) as connection:
        top = head(f"Content-Length: {SIZE}", method=method, target=target)
        assert connection.send(top, BODY[:1000]).answer(seconds=0.8).status == status
        assert goes_on(connection.send(BODY[1000:]), actions)


def test_a_body_that_does_not_end_is_not_waited_for(keyed_gateway: str) -> None:
    """Whether nothing more comes or a little now and then."""
    with ThreadPoolExecutor(2) as pool:
        for seconds in pool.map(lambda drips: kept_s(keyed_gateway, drips), (False, True)):
            assert SLOW_S - 1.5 < seconds < SLOW_S + 2


def kept_s(url: str, drips: bool) -> float:
    """How long a connection is kept whose request was answered and whose body does not end."""
    with Connection(url) as connection:
        connection.send(head("Content-Length: 1000000"), BODY[:1000])
        check_error(connection.answer(), 401, "UNAUTHORIZED")
        began = time.monotonic()
        connection.socket.settimeout(0.2)
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < began + 3 * SLOW_S:
                if drips:
                    connection.send(b"x")
                with contextlib.suppress(TimeoutError):
                    assert connection.socket.recv(100) == b""
                    break
        return time.monotonic() - began


def test_an_endless_body_is_dropped_without_being_kept(own_gateway: str) -> None:
    """A gigabyte of it is told; what comes within 5 s is thrown away."""
    with Connection(own_gateway) as connection, Memory(own_gateway) as memory:
        connection.send(head(f"Content-Length: {1 << 30}"))
        check_error(connection.answer(), 413, "PAYLOAD_TOO_LARGE")
        with contextlib.suppress(OSError):
            for _ in range(200):
                connection.send(BODY)
    assert memory.grown < 16 << 20


@pytest.mark.parametrize(
    ("name", "buffering"),
    [
        pytest.param("nginx", True, marks=needs("nginx"), id="nginx, body first"),
        pytest.param("nginx", False, marks=needs("nginx"), id="nginx, as it comes"),
        pytest.param("haproxy", False, marks=needs("haproxy"), id="haproxy"),
    ],
)
def test_behind_a_proxy(
    keyed_gateway: str, limited_gateway: str, actions: Any, name: str, buffering: bool
) -> None:
    """The caller sees the right status, never the proxy's own; others are served rightly."""
    with proxy(name, keyed_gateway, buffering=buffering) as url:
        stop, wrong = threading.Event(), list[str]()

        def ask_on() -> None:
            with Connection(url) as connection:
                while not stop.is_set():
                    answer = connection.send(request(GOOD, KEY)).answer()
                    if answer.status != 200 or answer.actions() != actions:
                        wrong.append(repr(answer))

        thread = threading.Thread(target=ask_on)
        thread.start()
        try:
            for status, _, size, lines in REFUSED.values():
                for _ in range(3):
                    assert status_of(url, size, lines) == status
        finally:
            stop.set()
            thread.join()
        assert wrong == []
    with proxy(name, limited_gateway, buffering=buffering) as url:
        assert [status_of(url, SIZE, ()) for _ in range(3)] == [429] * 3


def status_of(url: str, size: int, lines: tuple[str, ...]) -> int:
    """Send a large body in pieces and give the status that comes, at whatever moment it does."""
    body = body_of(size)
    with Connection(url) as connection:
        try:
            connection.send(head(*lines, f"Content-Length: {size}"))
            for at in range(0, size, 1 << 18):
                connection.send(body[at : at + (1 << 18)])
                time.sleep(0.005)
        except OSError:
            pass  # the proxy has answered and reads no more
        try:
            return connection.answer().status
        except EndedError:
            return 0
