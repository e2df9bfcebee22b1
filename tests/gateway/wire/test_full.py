"""A full gateway is not down: probes find a place, all else is told so."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from websockets.sync.client import ClientConnection

from tests.gateway.processes import OBSERVATION, gateway_process, until
from tests.gateway.streams import open_stream
from tests.gateway.wire.wire import Connection, ask, check_last, head, request

MOST = 4
PROBES = ("/livez", "/readyz", "/healthz", "/metrics")
REST: dict[str, bytes] = {
    "predict": request(),
    "metadata": request(None, method="GET", target="/metadata"),
    "no route": request(None, method="GET", target="/nothing"),
    "a probe's path, posted": request(b"", target="/livez"),
    "below a probe's path": request(None, method="GET", target="/livez/x"),
    "stream": head(
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        method="GET",
        target="/stream",
    ),
}
FILES = 400
SOON_S = 1.0


def get(target: str, *lines: str) -> bytes:
    return request(None, *lines, method="GET", target=target)


@contextmanager
def kept(url: str, count: int) -> Iterator[None]:
    """Hold connections, each of which was answered once and is kept."""
    with ExitStack() as stack:
        for _ in range(count):
            held = stack.enter_context(Connection(url))
            assert held.send(request()).answer().status == 200
        yield


@contextmanager
def driven(url: str, count: int) -> Iterator[list[ClientConnection]]:
    """Hold streams, each of which is at work."""
    with ExitStack() as stack:
        held = [stack.enter_context(open_stream(url)) for _ in range(count)]
        for one in held:
            assert steps(one)
        yield held


def steps(vehicle: ClientConnection) -> bool:
    """Whether a stream's next step is answered with an action."""
    step = time.monotonic_ns() // 1000
    vehicle.send(json.dumps({"stepId": step, "observation": OBSERVATION}))
    answer = json.loads(vehicle.recv(timeout=10))
    return bool(answer["stepId"] == step and "action" in answer)


@pytest.fixture(scope="module")
def small_gateway(triton_url: str) -> Iterator[str]:
    """URL of a gateway with few places."""
    with gateway_process(TRITON_URL=triton_url, MAX_CONNECTIONS=str(MOST)) as url:
        yield url


@pytest.fixture(params=["streams", "kept connections"])
def full_gateway(request: pytest.FixtureRequest, small_gateway: str) -> Iterator[str]:
    """That gateway, with every place taken until the test ends."""
    until(lambda: places(small_gateway) == MOST, 10)
    hold = driven if request.param == "streams" else kept
    with hold(small_gateway, MOST):
        yield small_gateway
        assert ask(small_gateway, REST["metadata"]).status == 503, "it was not full all the time"


def places(url: str) -> int:
    """How many connections are served at a time just now."""
    with ExitStack() as stack:
        statuses = [
            stack.enter_context(Connection(url)).send(REST["metadata"]).answer().status
            for _ in range(MOST + 1)
        ]
    return statuses.count(200)


@pytest.mark.parametrize("target", PROBES)
def test_probes_are_answered(full_gateway: str, target: str) -> None:
    for _ in range(10):
        began = time.monotonic()
        answer = ask(full_gateway, get(target))
        assert answer.status == 200, answer
        assert time.monotonic() - began < SOON_S
    assert ask(full_gateway, get(target, "X-Forwarded-For: 10.0.0.1", "Via: 1.1 a")).status == 200
    assert ask(full_gateway, get(target + "?a=b")).status == 200
    data = request(None, method="HEAD", target=target)
    assert ask(full_gateway, data, to_head=True).status == 200


@pytest.mark.parametrize("kind", REST)
def test_anything_else_is_told(full_gateway: str, kind: str) -> None:
    with Connection(full_gateway) as connection:
        answer = check_last(connection.send(REST[kind]), 503, "SERVICE_UNAVAILABLE")
        assert "too many connections" in answer.content()["message"]
        assert int(answer.get("retry-after") or 0) >= 1


def test_a_probe_opens_the_way_for_nothing_else(full_gateway: str) -> None:
    with Connection(full_gateway) as connection:
        answer = connection.send(get("/livez")).answer()
        assert answer.status == 200
        if answer.closes:
            assert connection.ended()
        else:
            check_last(connection.send(request()), 503, "SERVICE_UNAVAILABLE")
    with Connection(full_gateway) as connection:
        connection.send(get("/livez") + request())
        answer = connection.answer()
        assert answer.status == 200
        if not answer.closes:
            check_last(connection, 503, "SERVICE_UNAVAILABLE")


def probed(url: str, tries: int) -> list[float]:
    """Ask for probes, each on a new connection, and give how long each took."""
    seconds = []
    for number in range(tries):
        began = time.monotonic()
        assert ask(url, get(PROBES[number % len(PROBES)])).status == 200
        seconds.append(time.monotonic() - began)
        time.sleep(0.05)
    return seconds


@pytest.mark.parametrize("said", [b"", b"GET /livez HTTP/1.1\r\nHost: x\r\n"], ids=["mute", "half"])
def test_a_flood_does_not_keep_probes_out(full_gateway: str, said: bytes) -> None:
    with ExitStack() as stack:
        for _ in range(1500):
            stack.enter_context(Connection(full_gateway)).send(said)
        assert max(probed(full_gateway, 20)) < SOON_S


def test_a_place_that_is_free_again_is_taken(triton_url: str) -> None:
    with gateway_process(TRITON_URL=triton_url, MAX_CONNECTIONS=str(MOST)) as url:
        for _ in range(3):
            until(lambda: ask(url, request()).status == 200, 5)
            with kept(url, MOST):
                assert max(probed(url, 4)) < SOON_S
                assert ask(url, request()).status == 503
            until(lambda: ask(url, request()).status == 200, 5)


def test_fewer_files_than_connections(triton_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The limit is lowered to what the process may open, which the log says; probes get in."""
    few = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES}))"
    settings = {"TRITON_URL": triton_url, "MAX_CONNECTIONS": "100000", "ACCESS_LOG": "none"}
    with gateway_process(before=few, **settings) as url:
        line = next(x for x in capfd.readouterr().err.splitlines() if "MAX_CONNECTIONS" in x)
        told = re.search(r"lowered to (\d+)", line)
        assert told, line
        limit = int(told[1])
        assert 50 <= limit < FILES
        with kept(url, limit - 5), ExitStack() as stack:
            for _ in range(FILES):
                stack.enter_context(Connection(url))
            assert max(probed(url, 20)) < SOON_S
            with Connection(url) as connection:
                check_last(connection.send(request()), 503, "SERVICE_UNAVAILABLE")
