"""`Expect: 100-continue`: the body is asked for, but not where the head alone is refused."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests.gateway.processes import gateway_process
from tests.gateway.wire.proxies import PROXIES, needs, program, proxy
from tests.gateway.wire.wire import (
    GOOD,
    Connection,
    ask,
    check_error,
    chunks,
    goes_on,
    head,
    request,
)

EXPECT = "Expect: 100-continue"
LENGTH = f"Content-Length: {len(GOOD)}"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def told_to_continue(connection: Connection) -> bool:
    """Whether the next bytes are exactly the answer that asks for the body."""
    received = b""
    while len(received) < len(CONTINUE):
        part = connection.socket.recv(len(CONTINUE) - len(received))
        if not part:
            break
        received += part
    return received == CONTINUE and connection.quiet(0.1)


@pytest.mark.parametrize("line", [EXPECT, "expect: 100-Continue", "Expect:100-CONTINUE"])
def test_the_body_is_asked_for(gateway_url: str, actions: Any, line: str) -> None:
    with Connection(gateway_url) as connection:
        for _ in range(2):
            assert told_to_continue(connection.send(head(line, LENGTH)))
            answer = connection.send(GOOD).answer()
            assert answer.actions() == actions
            assert answer.interim == ()
        assert goes_on(connection, actions)


def test_in_chunks(gateway_url: str, actions: Any) -> None:
    with Connection(gateway_url) as connection:
        connection.send(head(EXPECT, "Transfer-Encoding: chunked"))
        assert told_to_continue(connection)
        assert connection.send(chunks(GOOD, 50)).answer().actions() == actions
        assert goes_on(connection, actions)


def test_a_body_that_does_not_wait(gateway_url: str, actions: Any) -> None:
    """Then it need not be asked for."""
    with Connection(gateway_url) as connection:
        answer = connection.send(request(GOOD, EXPECT)).answer()
        assert answer.actions() == actions
        assert answer.interim in ((), (100,))
        assert goes_on(connection, actions)


def test_a_wrong_body(gateway_url: str, actions: Any) -> None:
    with Connection(gateway_url) as connection:
        assert told_to_continue(connection.send(head(EXPECT, "Content-Length: 1")))
        check_error(connection.send(b"{").answer(), 422, "VALIDATION_ERROR")
        assert goes_on(connection, actions)


REFUSED: dict[str, tuple[int, str, tuple[str, ...], bytes]] = {
    "too large": (413, "PAYLOAD_TOO_LARGE", ("Content-Length: 1048577",), b" " * 1_048_577),
    "no type of ours": (415, "UNSUPPORTED_MEDIA_TYPE", (LENGTH, "Content-Type: text/xml"), GOOD),
    "encoded": (415, "UNSUPPORTED_MEDIA_TYPE", (LENGTH, "Content-Encoding: gzip"), GOOD),
    "wrong deadline": (422, "VALIDATION_ERROR", (LENGTH, "X-Deadline-Ms: soon"), GOOD),
    "two deadlines": (422, "VALIDATION_ERROR", (LENGTH, *["X-Deadline-Ms: 5"] * 2), GOOD),
}


@pytest.mark.parametrize(("status", "code", "lines", "body"), REFUSED.values(), ids=REFUSED)
def test_what_its_head_refuses_is_refused_at_once(
    gateway_url: str, actions: Any, status: int, code: str, lines: tuple[str, ...], body: bytes
) -> None:
    """Without the body having been asked for; whoever sends it all the same is followed."""
    with Connection(gateway_url) as connection:
        answer = connection.send(head(EXPECT, *lines)).answer(seconds=0.8)
        check_error(answer, status, code)
        assert answer.interim == ()
        if answer.closes:
            assert connection.ended()
        else:
            assert goes_on(connection.send(body), actions)


def test_without_a_key(keyed_gateway: str, actions: Any) -> None:
    with Connection(keyed_gateway) as connection:
        answer = connection.send(head(EXPECT, LENGTH)).answer(seconds=0.8)
        check_error(answer, 401, "UNAUTHORIZED")
        assert answer.interim == ()
        if answer.closes:
            assert connection.ended()
        else:
            again = connection.send(GOOD, request(GOOD, "X-API-Key: a-good-key")).answer()
            assert again.actions() == actions


def test_who_sends_too_much(triton_url: str) -> None:
    limits = {"RATE_LIMIT_PER_S": "0.01", "RATE_LIMIT_BURST": "1"}
    with gateway_process(TRITON_URL=triton_url, **limits) as url:
        assert ask(url, request()).status == 200
        ask(url, request())
        with Connection(url) as connection:
            answer = connection.send(head(EXPECT, LENGTH)).answer(seconds=0.8)
            check_error(answer, 429, "RESOURCE_EXHAUSTED")
            assert answer.interim == ()


@pytest.mark.parametrize("line", ["Expect: foo", "Expect: 200-ok", "Expect: 100-continue-not"])
def test_another_expectation_is_ignored(gateway_url: str, actions: Any, line: str) -> None:
    with Connection(gateway_url) as connection:
        assert connection.send(head(line, LENGTH)).quiet()
        answer = connection.send(GOOD).answer()
        assert answer.actions() == actions
        assert answer.interim == ()
        assert goes_on(connection, actions)


def test_http_1_0_knows_none(gateway_url: str, actions: Any) -> None:
    with Connection(gateway_url) as connection:
        assert connection.send(head(EXPECT, LENGTH, version="HTTP/1.0")).quiet()
        answer = connection.send(GOOD).answer()
        assert answer.actions() == actions
        assert answer.interim == ()


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in PROXIES])
def test_behind_a_proxy(gateway_url: str, actions: Any, name: str) -> None:
    with proxy(name, gateway_url, buffering=False) as url, Connection(url) as connection:
        for _ in range(20):
            connection.send(head(EXPECT, LENGTH))
            answer = connection.send(GOOD).answer()
            assert answer.actions() == actions
        assert goes_on(connection, actions)


@needs("curl")
def test_curl_waits_for_it(gateway_url: str) -> None:
    """It does so by itself with a body of more than a megabyte, or where it is told to."""
    command = [program("curl"), "--silent", "--max-time", "20", "--expect100-timeout", "10"]
    command += ["--output", "/dev/null", "--write-out", "%{http_code} %{time_total}"]
    command += ["-H", EXPECT, "-H", "Content-Type: application/json"]
    command += ["--data-binary", GOOD.decode(), gateway_url + "/predict"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    status, seconds = done.stdout.split()
    assert status == "200"
    assert float(seconds) < 5
