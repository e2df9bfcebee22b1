"""Every spelling of `POST /predict` is answered as the plain one."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.gateway.processes import OBSERVATION
from tests.gateway.wire.wire import (
    GOOD,
    Connection,
    EndedError,
    ask,
    chunked,
    chunks,
    goes_on,
    head,
    request,
)

PROXY = (
    "X-Forwarded-For: 10.0.0.1, 10.0.0.2",
    "X-Forwarded-Proto: https",
    "X-Real-IP: 10.0.0.1",
    "Via: 1.1 a, 1.1 b",
    "Forwarded: for=10.0.0.1",
)
BROWSER = (
    "Origin: http://example.org",
    "Referer: http://example.org/console",
    "Cookie: a=b; c=d",
    "Sec-Fetch-Mode: cors",
    "Sec-Fetch-Site: cross-site",
    "Accept: */*",
    "Accept-Encoding: gzip, deflate, br",
    "Accept-Language: de-DE,de;q=0.9",
    "DNT: 1",
    "Content-Type: application/json",
)
MIXED = head(f"Content-Length: {len(GOOD)}").replace(b"Content-Length", b"cOnTeNt-LeNgTh") + GOOD
ONE = request(GOOD, *PROXY)
BODY_AT = ONE.index(b"\r\n\r\n") + 4

SPELLINGS: dict[str, tuple[bytes, ...]] = {
    "of a proxy": (request(GOOD, *PROXY),),
    "of a browser": (request(GOOD, *BROWSER),),
    "of both": (request(GOOD, *PROXY, *BROWSER),),
    "mixed case": (MIXED,),
    "values with blanks around them": (
        request(GOOD, "X-Blank: \t a \t ", "Accept:*/*", "X-None:"),
    ),
    "a header twice": (request(GOOD, "Accept: a", "Accept: b", "Cookie: a=b", "Cookie: c=d"),),
    "a parameter": (request(GOOD, "Content-Type: application/json; charset=utf-8"),),
    "a type of its own": (request(GOOD, "Content-Type: application/vnd.car+json"),),
    "a query": (request(target="/predict?a=b&c"),),
    "a percent-encoded path": (request(target="/%70redict"),),
    "absolute form": (request(target="http://host/predict"),),
    "absolute form with port and query": (request(target="http://host:80/predict?a=b"),),
    "empty lines before it": (b"\r\n\r\n" + ONE,),
    "head and body apart": (ONE[:BODY_AT], ONE[BODY_AT:]),
    "the body in three": (ONE[: BODY_AT + 5], ONE[BODY_AT + 5 : -5], ONE[-5:]),
    "cut in the end of the head": (ONE[: BODY_AT - 2], ONE[BODY_AT - 2 :]),
    "cut in a header's name": (ONE[:30], ONE[30:60], ONE[60:]),
    "chunked": (chunked(),),
    "chunks of one byte": (chunked(size=1),),
    "each chunk by itself": (head("Transfer-Encoding: chunked"), chunks(GOOD, 60), b""),
    "Chunked, in capitals": (head("Transfer-Encoding: Chunked") + chunks(GOOD, 60),),
    "a sane deadline": (request(GOOD, "X-Deadline-Ms: 900"),),
    "keep-alive": (request(GOOD, "Connection: keep-alive", "Keep-Alive: timeout=5"),),
    "a header of a hop": (request(GOOD, "Connection: X-Hop", "X-Hop: 1", "TE: trailers"),),
    "escaped names": (request(GOOD.replace(b'"speed"', b'"\\u0073peed"')),),
    "blanks in the body": (request(b"\n\t " + GOOD.replace(b":", b" : ") + b"\r\n"),),
    "a name twice, the last counts": (request(GOOD[:-1] + b',"deterministic":true}'),),
    "a sensor list twice": (request(GOOD.replace(b'"speed"', b'"speed": 3, "speed"')),),
}


@pytest.mark.parametrize("segments", SPELLINGS.values(), ids=SPELLINGS)
def test_answers_as_the_plain_form(
    gateway_url: str, actions: Any, segments: tuple[bytes, ...]
) -> None:
    with Connection(gateway_url) as connection:
        answer = connection.send(*segments).answer()
        assert answer.actions() == actions
        assert set(answer.content()) == {"actions", "version", "timingMs", "deterministic"}
        assert goes_on(connection, actions)


def test_every_byte_by_itself(gateway_url: str, actions: Any) -> None:
    with Connection(gateway_url) as connection:
        for at in range(len(ONE)):
            connection.send(ONE[at : at + 1])
            time.sleep(0.001)
        assert connection.answer().actions() == actions
        assert goes_on(connection, actions)


def test_answers_are_alike_in_their_headers(gateway_url: str) -> None:
    plain = ask(gateway_url, request())
    for name in ("of a proxy", "chunked", "head and body apart", "a query"):
        other = ask(gateway_url, *SPELLINGS[name])
        assert {key for key, _ in other.headers} == {key for key, _ in plain.headers}, name


def test_the_largest_count_in_chunks(gateway_url: str) -> None:
    body = json.dumps({"observations": [OBSERVATION] * 1000, "deterministic": True}).encode()
    whole, parts = ask(gateway_url, request(body)), ask(gateway_url, chunked(body, size=4000))
    assert len(whole.actions()) == 1000
    assert parts.actions() == whole.actions()


def test_connection_close(gateway_url: str, actions: Any) -> None:
    with Connection(gateway_url) as connection:
        answer = connection.send(request(GOOD, "Connection: close")).answer()
        assert answer.actions() == actions
        assert answer.closes
        assert connection.ended()


@pytest.mark.parametrize("extra", [(), (*PROXY, *BROWSER)], ids=["plain", "with headers"])
def test_http_1_0(gateway_url: str, actions: Any, extra: tuple[str, ...]) -> None:
    with Connection(gateway_url) as connection:
        answer = connection.send(request(GOOD, *extra, version="HTTP/1.0")).answer()
        assert answer.actions() == actions
        assert connection.ended()


@pytest.mark.parametrize("target", ["/predict", "/livez"])
def test_http_1_0_with_keep_alive(gateway_url: str, actions: Any, target: str) -> None:
    """It is kept where the answer says so, and only there."""
    kept = "Connection: keep-alive"
    body, method = (GOOD, "POST") if target == "/predict" else (None, "GET")
    data = request(body, kept, method=method, target=target, version="HTTP/1.0")
    with Connection(gateway_url) as connection:
        answer = connection.send(data).answer()
        assert answer.status == 200
        if (answer.get("connection") or "").lower() == "keep-alive":
            assert connection.send(data).answer().status == 200
        else:
            assert connection.ended()


def test_half_a_request_and_an_end(gateway_url: str) -> None:
    """Who leaves in the middle gets no answer of another kind than an error, or none."""
    for cut in (10, BODY_AT, BODY_AT + 20):
        with Connection(gateway_url) as connection:
            connection.send(ONE[:cut])
            connection.socket.shutdown(1)
            try:
                assert connection.answer().status >= 400
            except EndedError:
                continue
