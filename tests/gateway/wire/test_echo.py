"""`X-Carlarl-Echo` comes back as it went, with every answer of every route."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.gateway.processes import gateway_process
from tests.gateway.streams import open_stream
from tests.gateway.wire.wire import GOOD, Connection, ask, chunked, head, request

NAME = "x-carlarl-echo"
SENT = "Car_7.step-00042"
ECHO = f"X-Carlarl-Echo: {SENT}"


def get(target: str, *headers: str, method: str = "GET") -> bytes:
    return request(None, ECHO, *headers, method=method, target=target)


ANSWERS: dict[str, tuple[int, bytes]] = {
    "predict": (200, request(GOOD, ECHO)),
    "chunked": (200, chunked(GOOD, ECHO)),
    "lower case": (200, request(GOOD, ECHO.lower().replace(SENT.lower(), SENT))),
    "before the other headers": (200, request(GOOD, ECHO, "Accept: */*", "Via: 1.1 a")),
    "healthz": (200, get("/healthz")),
    "livez": (200, get("/livez")),
    "readyz": (200, get("/readyz")),
    "metadata": (200, get("/metadata")),
    "versions": (200, get("/versions")),
    "metrics": (200, get("/metrics")),
    "docs": (200, get("/docs")),
    "openapi": (200, get("/openapi.json")),
    "asyncapi": (200, get("/asyncapi.json")),
    "console": (200, get("/console")),
    "warmup": (200, request(b"", ECHO, target="/warmup")),
    "preflight": (
        200,
        get(
            "/predict",
            "Origin: http://a.example",
            "Access-Control-Request-Method: POST",
            method="OPTIONS",
        ),
    ),
    "unknown route": (404, get("/nothing")),
    "unknown version": (404, request(GOOD[:-1] + b',"version":"v9.0.0"}', ECHO)),
    "wrong method": (405, get("/predict")),
    "not a stream": (426, get("/stream")),
    "no JSON": (422, request(b"{", ECHO)),
    "wrong deadline": (422, request(GOOD, ECHO, "X-Deadline-Ms: x")),
    "too large": (413, request(b" " * (1 << 20) + GOOD, ECHO)),
    "no type of ours": (415, request(GOOD, ECHO, "Content-Type: text/plain")),
    "an upgrade that is not heeded": (
        200,
        request(GOOD, ECHO, "Connection: Upgrade", "Upgrade: foo"),
    ),
}


@pytest.mark.parametrize(("status", "data"), ANSWERS.values(), ids=ANSWERS)
def test_comes_back(gateway_url: str, status: int, data: bytes) -> None:
    answer = ask(gateway_url, data)
    assert answer.status == status
    assert answer.get(NAME) == SENT


@pytest.mark.parametrize("target", ["/livez", "/predict", "/nothing"])
def test_comes_back_to_head(gateway_url: str, target: str) -> None:
    assert ask(gateway_url, get(target, method="HEAD"), to_head=True).get(NAME) == SENT


def test_comes_back_without_a_key(keyed_gateway: str) -> None:
    for data in (request(GOOD, ECHO), get("/metadata")):
        answer = ask(keyed_gateway, data)
        assert (answer.status, answer.get(NAME)) == (401, SENT)


def test_comes_back_from_a_gateway_without_triton(lone_gateway: str) -> None:
    for data in (request(GOOD, ECHO), get("/readyz")):
        answer = ask(lone_gateway, data)
        assert (answer.status, answer.get(NAME)) == (503, SENT)


def test_comes_back_to_who_sends_too_much(triton_url: str) -> None:
    limits = {"RATE_LIMIT_PER_S": "0.01", "RATE_LIMIT_BURST": "1"}
    with gateway_process(TRITON_URL=triton_url, **limits) as url:
        statuses = {}
        for number in range(3):
            answer = ask(url, request(GOOD, f"X-Carlarl-Echo: n{number}"))
            statuses[answer.status] = answer.get(NAME)
        assert statuses == {200: "n0", 429: "n2"}


def test_comes_back_where_a_stream_opens(gateway_url: str) -> None:
    with open_stream(gateway_url, additional_headers={"X-Carlarl-Echo": SENT}) as connection:
        assert connection.response is not None
        assert connection.response.headers[NAME] == SENT


def test_each_request_has_its_own(gateway_url: str) -> None:
    with Connection(gateway_url) as connection:
        sent = ["a", None, "b" * 64, "b", None, "-._"]
        lines = [[] if echo is None else [f"X-Carlarl-Echo: {echo}"] for echo in sent]
        connection.send(b"".join(request(GOOD, *line) for line in lines))
        assert [connection.answer().get(NAME) for _ in sent] == sent


@pytest.mark.parametrize(
    "value",
    ["", "a" * 65, "a b", "a/b", "a;b", "a,b", 'a"b', "\xe9", "a\tb", "<script>", "%41", "a:b"],
)
@pytest.mark.parametrize("route", ["/predict", "/livez", "/nothing"])
def test_an_insane_one_is_dropped(gateway_url: str, value: str, route: str) -> None:
    line = f"X-Carlarl-Echo: {value}"
    good = route == "/predict"
    data = request(GOOD, line) if good else head(line, method="GET", target=route)
    answer = ask(gateway_url, data)
    assert answer.status == (404 if route == "/nothing" else 200)
    assert answer.get(NAME) is None


def test_the_deadline_and_a_full_line_say_it_too(
    run_gateway: Callable[..., str], triton_url: str
) -> None:
    url = run_gateway(TRITON_URL=triton_url, MAX_WAITING="0", REQUEST_TIMEOUT_MS="1")
    for _ in range(20):
        answer = ask(url, request(GOOD, ECHO))
        assert answer.status in (200, 429, 504)
        assert answer.get(NAME) == SENT
