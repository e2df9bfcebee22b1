"""An upgrade that is not heeded is as if it had not been asked for; the body stays the body."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

import pytest

from tests.gateway.processes import OBSERVATION
from tests.gateway.wire.proxies import needs, program
from tests.gateway.wire.wire import (
    GOOD,
    SEGMENT_S,
    Connection,
    check_error,
    chunked,
    goes_on,
    head,
    request,
)

WEBSOCKET = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
WISHES: dict[str, tuple[str, ...]] = {
    "foo": ("Connection: Upgrade", "Upgrade: foo"),
    "foo, kept": ("Connection: keep-alive, Upgrade", "Upgrade: foo/2"),
    "h2c": (
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
    ),
    "websocket": WEBSOCKET,
    "tls": ("Connection: upgrade", "Upgrade: TLS/1.2, HTTP/1.1"),
}
SMUGGLED = request(None, "X-Request-ID: smuggled", method="GET", target="/nothing")


def shapes(wish: tuple[str, ...]) -> dict[str, tuple[bytes, ...]]:
    """The same request with its body told in both ways, in one segment and in several."""
    whole, parts = request(GOOD, *wish), chunked(GOOD, *wish, size=40)
    at, also_at = (data.index(b"\r\n\r\n") + 4 for data in (whole, parts))
    return {
        "one segment": (whole,),
        "head and body apart": (whole[:at], whole[at:]),
        "body in two": (whole[: at + 9], whole[at + 9 :]),
        "chunked": (parts,),
        "chunked, apart": (parts[:also_at], parts[also_at : also_at + 60], parts[also_at + 60 :]),
    }


SHAPES = list(shapes(()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("wish", WISHES.values(), ids=WISHES)
def test_is_answered_as_usual(
    gateway_url: str, actions: Any, wish: tuple[str, ...], shape: str
) -> None:
    with Connection(gateway_url) as connection:
        answer = connection.send(*shapes(wish)[shape]).answer()
        assert answer.actions() == actions
        assert answer.get("upgrade") is None
        assert goes_on(connection, actions)


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
@pytest.mark.parametrize("wish", WISHES.values(), ids=WISHES)
def test_nothing_of_the_body_is_a_request(
    gateway_url: str, actions: Any, wish: tuple[str, ...], apart: bool, framing: str
) -> None:
    """Bodies that are requests, whole or after empty lines, are wrong JSON: 422 and no more."""
    for body in (SMUGGLED, b"\r\n" * 500 + SMUGGLED, GOOD + b"\r\n" * 5 + SMUGGLED):
        one_chunk = chunked(body, *wish, size=len(body))
        data = one_chunk if framing == "chunked" else request(body, *wish)
        at = data.index(b"\r\n\r\n") + 4
        if framing == "chunked":  # behind the size of the chunk
            at = data.index(b"\r\n", at) + 2
        segments = (data[:at], data[at:]) if apart else (data,)
        with Connection(gateway_url) as connection:
            check_error(connection.send(*segments).answer(), 422, "VALIDATION_ERROR")
            assert connection.quiet(0.1)
            assert goes_on(connection, actions)


@pytest.mark.parametrize("wish", WISHES.values(), ids=WISHES)
def test_many_in_one_segment(gateway_url: str, actions: Any, wish: tuple[str, ...]) -> None:
    with Connection(gateway_url) as connection:
        connection.send(request(GOOD, *wish) * 5 + chunked(GOOD, *wish) * 5)
        assert [connection.answer().actions() for _ in range(10)] == [actions] * 10
        assert goes_on(connection, actions)


@pytest.mark.parametrize("target", ["/livez", "/healthz", "/versions", "/stream?x=1"])
@pytest.mark.parametrize("wish", ["foo", "h2c"])
def test_of_a_get(gateway_url: str, actions: Any, wish: str, target: str) -> None:
    lines = WISHES[wish]
    with Connection(gateway_url) as connection:
        answer = connection.send(request(None, *lines, method="GET", target=target)).answer()
        assert answer.status == (426 if "stream" in target else 200)
        assert goes_on(connection, actions)
        connection.send(request(SMUGGLED, *lines, method="GET", target=target)).answer()
        assert goes_on(connection, actions)


def test_a_websocket_elsewhere_than_at_the_stream(gateway_url: str, actions: Any) -> None:
    for target, status in (("/livez", 200), ("/nothing", 404), ("/predict", 405)):
        with Connection(gateway_url) as connection:
            data = request(None, *WEBSOCKET, method="GET", target=target)
            assert connection.send(data).answer().status == status
            assert goes_on(connection, actions)


def test_a_post_to_the_stream_opens_none(gateway_url: str, actions: Any) -> None:
    with Connection(gateway_url) as connection:
        answer = connection.send(request(SMUGGLED, *WEBSOCKET, target="/stream")).answer()
        check_error(answer, 405, "HTTP_ERROR")
        assert goes_on(connection, actions)


def test_with_expect(gateway_url: str, actions: Any) -> None:
    lines = (*WISHES["h2c"], "Expect: 100-continue", f"Content-Length: {len(GOOD)}")
    with Connection(gateway_url) as connection:
        connection.send(head(*lines))
        time.sleep(SEGMENT_S)
        answer = connection.send(GOOD).answer()
        assert answer.interim == (100,)
        assert answer.actions() == actions
        assert goes_on(connection, actions)


@needs("curl")
@pytest.mark.parametrize("count", [1, 1000])
@pytest.mark.parametrize("options", [["--http2"], ["--http2", "-H", "Expect: 100-continue"]])
def test_curl_asks_for_http2(gateway_url: str, count: int, options: list[str]) -> None:
    """It asks for h2c with the body behind it, and must get its answer over HTTP/1.1."""
    body = json.dumps({"observations": [OBSERVATION] * count, "deterministic": True})
    command = [program("curl"), "--silent", "--show-error", "--max-time", "20", *options]
    command += ["--write-out", "\n%{http_code} %{http_version}", "--data-binary", "@-"]
    command += ["-H", "Content-Type: application/json", gateway_url + "/predict"]
    done = subprocess.run(command, input=body.encode(), capture_output=True, timeout=30)
    assert done.returncode == 0, done.stderr
    content, _, status = done.stdout.decode().rpartition("\n")
    assert status == "200 1.1"
    assert len(json.loads(content)["actions"]) == count
