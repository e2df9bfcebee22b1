"""Callers that are slow, idle or too many: they are cut off, and the others are served."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from gateway.http.connection import SLOW_S
from tests.gateway.processes import OBSERVATION, check_envelope, predict, until
from tests.gateway.stand_in import StandIn

GOOD = json.dumps({"observations": [OBSERVATION], "deterministic": True}).encode()
LARGE = json.dumps({"observations": [OBSERVATION] * 1000, "deterministic": True}).encode()
PATIENCE_S = 60.0


def connect(url: str) -> socket.socket:
    """Return a connection with little room for what comes."""
    address = httpx.URL(url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(PATIENCE_S)
    connection.connect((address.host, address.port))
    return connection


def request(body: bytes) -> bytes:
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def received(connection: socket.socket) -> bytes:
    """All that comes until the gateway ends the connection."""
    parts = []
    with connection, contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def dripping(connection: socket.socket, drop: bytes) -> bytes:
    """Send a little now and then, until the gateway ends the connection."""
    connection.settimeout(0.5)
    began = time.monotonic()
    with connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while time.monotonic() < began + PATIENCE_S:
            connection.sendall(drop)
            with contextlib.suppress(TimeoutError):
                return connection.recv(65536)
        raise AssertionError("it was never cut off")
    return b""


def flood(connection: socket.socket, data: bytes) -> None:
    """Send, and read nothing."""
    for _ in range(100_000):
        connection.sendall(data)


@pytest.mark.reliability
def test_slow_callers_are_cut_off(run_gateway: Callable, triton_http: str) -> None:
    url = run_gateway(TRITON_URL=f"http://{triton_http}")
    starts = {
        "says nothing": b"",
        "half a head": b"POST /predict HTTP/1.1\r\nHost: x\r\n",
        "half a body": request(GOOD)[:-10],
        "idle after an answer": request(GOOD),
        "idle after the framework's answer": b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    }
    with ThreadPoolExecutor(16) as pool:
        ends = {}
        for name, data in starts.items():
            connection = connect(url)
            connection.sendall(data)
            ends[name] = pool.submit(received, connection)
        drips = {"a head by drops": b"X", "nothing but empty lines": b"\r\n"}
        for name, drop in drips.items():
            connection = connect(url)
            connection.sendall(b"" if drop == b"\r\n" else starts["half a head"] + b"X-Slow: ")
            ends[name] = pool.submit(dripping, connection, drop)
        while not all(end.done() for end in ends.values()):
            began = time.monotonic()
            assert predict(url).status_code == 200
            assert time.monotonic() - began < SLOW_S
            time.sleep(0.2)
        got = {name: end.result()[:12] for name, end in ends.items()}
    assert got == {
        "says nothing": b"",
        "half a head": b"",
        "half a body": b"HTTP/1.1 504",
        "idle after an answer": b"HTTP/1.1 200",
        "idle after the framework's answer": b"HTTP/1.1 200",
        "a head by drops": b"",
        "nothing but empty lines": b"",
    }


@pytest.mark.reliability
def test_who_never_reads_is_cut_off(run_gateway: Callable, triton_http: str) -> None:
    url = run_gateway(TRITON_URL=f"http://{triton_http}", REQUEST_TIMEOUT_MS="60000")
    probe = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    for data in (request(LARGE), probe * 1000):
        with connect(url) as connection, pytest.raises((BrokenPipeError, ConnectionResetError)):
            flood(connection, data)
        assert predict(url).status_code == 200


def test_connections_beyond_the_limit(run_gateway: Callable, stand_in: StandIn) -> None:
    url = run_gateway(TRITON_URL=stand_in.url, MAX_CONNECTIONS="4")
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(httpx.Client(base_url=url)) for _ in range(4)]
        assert [one.get("/livez").status_code for one in held] == [200] * 4
        for path in ("/livez", "/readyz", "/healthz", "/metrics"):
            assert httpx.get(url + path).status_code == 200
        refused = httpx.get(url + "/versions")
        check_envelope(refused, 503, "SERVICE_UNAVAILABLE")
        assert refused.headers["connection"] == "close"
        assert int(refused.headers["retry-after"]) >= 1
        check_envelope(predict(url), 503, "SERVICE_UNAVAILABLE")
        text = held[0].get("/metrics").text
        assert "carla_rl_refused_connections_total 2.0" in text
        held[1].close()
        until(lambda: predict(url).status_code == 200)


def test_a_long_line_is_told_at_once(run_gateway: Callable, stand_in: StandIn) -> None:
    """The one call there may be hangs, and somebody waits behind it."""
    url = run_gateway(TRITON_URL=stand_in.url, CALLS_IN_FLIGHT="1", REQUEST_TIMEOUT_MS="30000")
    stand_in.mode = "hang"
    with ThreadPoolExecutor(2) as pool, httpx.Client(base_url=url, timeout=60) as client:
        waiting = [pool.submit(predict, url)]
        until(lambda: len(stand_in.calls) == 1)
        waiting.append(pool.submit(predict, url))
        stand_in.mode = "ok"
        head = {"Content-Type": "application/json", "X-Deadline-Ms": "400"}
        answer = client.post("/predict", content=GOOD, headers=head)
        while answer.status_code == 504:  # the second was not in the line for long enough yet
            answer = client.post("/predict", content=GOOD, headers=head)
        check_envelope(answer, 429, "RESOURCE_EXHAUSTED")
        assert int(answer.headers["retry-after"]) >= 1
        assert [one.result().status_code for one in waiting] == [200, 200]
        assert client.post("/predict", content=GOOD, headers=head).status_code == 200
