"""Several requests on one connection: each is answered, in order, whatever is around it."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from tests.gateway.processes import OBSERVATION
from tests.gateway.wire.wire import (
    GOOD,
    PROBE,
    Connection,
    ask,
    check_error,
    check_last,
    chunked,
    goes_on,
    head,
    request,
)

SMUGGLED = request(None, "X-Request-ID: smuggled", method="GET", target="/nothing")
KINDS: tuple[tuple[int, Any], ...] = (
    (200, lambda line: request(GOOD, line)),
    (200, lambda line: request(GOOD, line, "X-Forwarded-For: 10.0.0.1", "Cookie: a=b")),
    (200, lambda line: chunked(GOOD, line)),
    (200, lambda line: request(None, line, method="GET", target="/healthz")),
    (404, lambda line: request(None, line, method="GET", target="/nothing")),
    (404, lambda line: request(GOOD[:-1] + b',"version":"v9.0.0"}', line)),
    (405, lambda line: request(GOOD, line, method="PUT")),
    (415, lambda line: request(GOOD, line, "Content-Type: text/plain")),
    (422, lambda line: request(b"{", line)),
    (422, lambda line: chunked(b'{"observations":[]}', line, size=3)),
    (422, lambda line: request(GOOD, line, "X-Deadline-Ms: x")),
    (200, lambda line: request(SMUGGLED, line, method="GET", target="/livez")),
)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("cut", [None, 1460, 77], ids=["one segment", "1460 bytes", "77 bytes"])
def test_a_hundred_at_once(gateway_url: str, actions: Any, seed: int, cut: int | None) -> None:
    random = Random(seed)
    wanted = [random.choice(KINDS) for _ in range(100)]
    data = b"".join(make(f"X-Request-ID: n{number}") for number, (_, make) in enumerate(wanted))
    with Connection(gateway_url) as connection:
        for at in range(0, len(data), cut or len(data)):
            connection.socket.sendall(data[at : at + (cut or len(data))])
        for number, (status, _) in enumerate(wanted):
            answer = connection.answer()
            assert (answer.status, answer.get("x-request-id")) == (status, f"n{number}")
        assert goes_on(connection, actions)


def test_each_gets_its_own_actions(gateway_url: str) -> None:
    seen = [{**OBSERVATION, "speed": float(number)} for number in range(100)]
    together = {"observations": seen, "deterministic": True}
    right = ask(gateway_url, request(json.dumps(together).encode())).actions()
    bodies = [json.dumps({"observations": [one], "deterministic": True}).encode() for one in seen]
    with Connection(gateway_url) as connection:
        connection.send(b"".join(map(request, bodies)))
        assert [connection.answer().actions() for _ in bodies] == [[action] for action in right]


GARBAGE = {
    "bytes": b"\x00\x01\x02\x03 no request\r\n\r\n",
    "a method that is none": b"P\x7fOST / HTTP/1.1\r\nHost: x\r\n\r\n",
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a version that is none": b"GET /livez HTTP/x.1\r\nHost: x\r\n\r\n",
    "a bad header": b"GET /livez HTTP/1.1\r\nHost x\r\n\r\n",
    "two lengths": head("Content-Length: 2", "Content-Length: 3") + b"{}",
    "text": b"hello, world\r\n\r\n",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("apart", [False, True], ids=["one segment", "apart"])
@pytest.mark.parametrize("good", [request(), chunked(), request() * 3], ids=["one", "chunked", "3"])
def test_garbage_behind_good_requests(
    gateway_url: str, actions: Any, good: bytes, apart: bool, garbage: bytes
) -> None:
    with Connection(gateway_url) as connection:
        connection.send(*((good, garbage) if apart else (good + garbage,)))
        for _ in range(good.count(b"POST")):
            assert connection.answer().actions() == actions
        check_last(connection, 400, "HTTP_ERROR")


def test_garbage_behind_a_slow_answer_of_another_route(gateway_url: str) -> None:
    with Connection(gateway_url) as connection:
        connection.send(request(b"", target="/warmup") + PROBE + GARBAGE["bytes"])
        assert connection.answer().content()["status"] == "warmed"
        assert connection.answer().content()["status"] == "alive"
        check_last(connection, 400, "HTTP_ERROR")


def test_connection_close_ends_what_is_sent_ahead(gateway_url: str, actions: Any) -> None:
    with Connection(gateway_url) as connection:
        connection.send(request() + request(GOOD, "Connection: close") + request() * 3)
        assert connection.answer().actions() == actions
        last = connection.answer()
        assert last.actions() == actions
        assert last.closes
        assert connection.ended()


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("apart", [False, True], ids=["one segment", "apart"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("target", "status"), [("/livez", 200), ("/predict", 405), ("/x", 404)])
def test_bodies_of_gets_and_heads(
    gateway_url: str,
    actions: Any,
    method: str,
    target: str,
    status: int,
    apart: bool,
    framing: str,
) -> None:
    """They are read and dropped, and HEAD is answered without one."""
    for body in (SMUGGLED, GOOD, b"\r\n" + SMUGGLED * 50):
        if framing == "length":
            data = request(body, method=method, target=target)
        else:
            data = chunked(body, method=method, target=target, size=len(body))
        at = data.index(b"\r\n\r\n") + 4
        with Connection(gateway_url) as connection:
            connection.send(*((data[:at], data[at:]) if apart else (data,)))
            answer = connection.answer(to_head=method == "HEAD")
            assert answer.status == status
            assert connection.quiet(0.03)
            assert goes_on(connection, actions)


def test_head_is_get_without_a_body(gateway_url: str) -> None:
    for target in ("/livez", "/predict", "/nothing", "/metrics", "/docs"):
        get = ask(gateway_url, request(None, method="GET", target=target))
        with Connection(gateway_url) as connection:
            data = request(None, method="HEAD", target=target)
            told = connection.send(data).answer(to_head=True)
            assert connection.quiet(0.05)
        assert told.status == get.status
        assert {key for key, _ in told.headers} == {key for key, _ in get.headers}


def test_an_invalid_body_does_not_end_the_connection(gateway_url: str, actions: Any) -> None:
    with Connection(gateway_url) as connection:
        for body in (b"", b"{", b"\x00", b"null", b"[" * 1000, GOOD + b"x"):
            check_error(connection.send(request(body)).answer(), 422, "VALIDATION_ERROR")
            assert goes_on(connection, actions)
