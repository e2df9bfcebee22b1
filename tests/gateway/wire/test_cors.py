"""CORS: every answer to a page has the same headers, whatever wrote it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.gateway.processes import gateway_process
from tests.gateway.wire.wire import (
    GOOD,
    Answer,
    Connection,
    ask,
    chunked,
    head,
    request,
)

ORIGIN = "https://car.example"
LINE = f"Origin: {ORIGIN}"
OTHER = "Origin: https://other.example"
COOKIE = "Cookie: a=b"


@pytest.fixture(scope="module")
def named_gateway(triton_url: str) -> Iterator[str]:
    """URL of a gateway that names the origins it lets in."""
    origins = f"https://first.example,{ORIGIN}"
    with gateway_process(TRITON_URL=triton_url, CORS_ORIGINS=origins, CORS_CREDENTIALS="1") as url:
        yield url


def cors(answer: Answer) -> dict[str, str]:
    """The headers that are about CORS."""
    return {
        key: value
        for key, value in answer.headers
        if key.startswith("access-control-") or key == "vary"
    }


ANSWERS = {
    "predict": (200, lambda *lines: request(GOOD, *lines)),
    "predict in chunks": (200, lambda *lines: chunked(GOOD, *lines)),
    "no JSON": (422, lambda *lines: request(b"{", *lines)),
    "wrong deadline": (422, lambda *lines: request(GOOD, *lines, "X-Deadline-Ms: x")),
    "wrong type": (415, lambda *lines: request(GOOD, *lines, "Content-Type: text/plain")),
    "too large": (413, lambda *lines: request(b" " * 1_048_577, *lines)),
    "unknown version": (404, lambda *lines: request(GOOD[:-1] + b',"version":"v9.0.0"}', *lines)),
    "wrong method": (405, lambda *lines: request(None, *lines, method="GET")),
    "unknown route": (404, lambda *lines: request(None, *lines, method="GET", target="/x")),
    "upgrade": (200, lambda *lines: request(GOOD, *lines, "Connection: Upgrade", "Upgrade: foo")),
    "two lengths": (400, lambda *lines: head(*lines, *["Content-Length: 2"] * 2) + b"{}"),
    "a wrong length": (400, lambda *lines: head(*lines, "Content-Length: -1")),
    "too large a head": (431, lambda *lines: request(GOOD, *lines, "X-Long: " + "a" * 66_000)),
    "too many lines": (431, lambda *lines: request(GOOD, *lines, *["X-Short: a"] * 201)),
}
CASES = pytest.mark.parametrize("kind", ANSWERS)


@CASES
@pytest.mark.parametrize("lines", [(LINE,), (LINE, COOKIE), (OTHER,)], ids=str)
def test_is_as_on_other_routes(gateway_url: str, lines: tuple[str, ...], kind: str) -> None:
    """Where every page is let in."""
    status, make = ANSWERS[kind]
    route = ask(gateway_url, request(None, *lines, method="GET", target="/healthz"))
    answer = ask(gateway_url, make(*lines))
    assert answer.status == status
    assert cors(answer) == cors(route)
    origin = answer.get("access-control-allow-origin")
    assert origin == "*" or (
        origin == lines[0].split()[1] and "origin" in (answer.get("vary") or "").lower()
    )


@CASES
@pytest.mark.parametrize("lines", [(LINE,), (LINE, COOKIE), (OTHER,), ()], ids=str)
def test_where_the_origins_are_named(named_gateway: str, lines: tuple[str, ...], kind: str) -> None:
    status, make = ANSWERS[kind]
    answer = ask(named_gateway, make(*lines))
    assert answer.status == status
    allowed = ORIGIN if LINE in lines else None
    assert answer.get("access-control-allow-origin") == allowed
    assert "origin" in (answer.get("vary") or "").lower()
    if allowed:
        assert answer.get("access-control-allow-credentials") == "true"
        route = ask(named_gateway, request(None, *lines, method="GET", target="/healthz"))
        assert cors(answer) == cors(route)


def test_without_a_key_and_over_the_rate(keyed_gateway: str, triton_url: str) -> None:
    refused = ask(keyed_gateway, request(GOOD, LINE))
    route = ask(keyed_gateway, request(None, LINE, method="GET", target="/metadata"))
    assert (refused.status, route.status) == (401, 401)
    assert cors(refused) == cors(route)
    assert "access-control-allow-origin" in cors(refused)
    limits = {"RATE_LIMIT_PER_S": "0.01", "RATE_LIMIT_BURST": "1"}
    with gateway_process(TRITON_URL=triton_url, **limits) as url:
        answers = [ask(url, request(GOOD, LINE)) for _ in range(3)]
        assert answers[2].status == 429
        assert cors(answers[2]) == cors(answers[0]) == cors(refused)


def test_a_full_gateway(triton_url: str) -> None:
    with gateway_process(TRITON_URL=triton_url, MAX_CONNECTIONS="2") as url:
        right = cors(ask(url, request(None, LINE, method="GET", target="/healthz")))
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                held = stack.enter_context(Connection(url))
                assert held.send(request()).answer().status == 200
            answer = ask(url, request(GOOD, LINE))
        assert answer.status == 503
        assert cors(answer) == right
        assert "access-control-allow-origin" in right


def test_a_preflight_lets_the_headers_of_the_client_through(named_gateway: str) -> None:
    asked = "content-type,x-api-key,x-carlarl-echo,x-deadline-ms"
    lines = ("Access-Control-Request-Method: POST", f"Access-Control-Request-Headers: {asked}")
    answer = ask(named_gateway, request(None, LINE, *lines, method="OPTIONS"))
    assert answer.status == 200
    assert answer.get("access-control-allow-origin") == ORIGIN
    allowed = (answer.get("access-control-allow-headers") or "").lower().replace(" ", "")
    assert set(allowed.split(",")) >= set(asked.split(","))
