"""SIGTERM: not ready first, then every accepted request is answered, then exit 0."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.gateway.processes import (
    OBSERVATION,
    ROOT,
    check_envelope,
    free_port,
    predict,
    status,
    until,
)
from tests.gateway.stand_in import StandIn


@contextlib.contextmanager
def gateway(stand_in: StandIn, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    port = free_port()
    fixed = {"PORT": str(port), "TRITON_URL": stand_in.url, "REQUEST_TIMEOUT_MS": "20000"}
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway"],
        cwd=ROOT,
        env={**os.environ, **fixed, **variables},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: [status(url + "/readyz") for _ in range(8)] == [200] * 8)
        yield process, url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # workers too
        process.communicate()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_readiness_fails_first(stand_in: StandIn, workers: str) -> None:
    notice = {"SHUTDOWN_NOTICE_S": "600", "WORKERS": workers}
    with gateway(stand_in, **notice) as (process, url), httpx.Client(base_url=url) as kept:
        assert "connection" not in kept.get("/livez").headers
        os.killpg(process.pid, signal.SIGTERM)  # each process, and workers by their parent, too
        until(lambda: [status(url + "/readyz") for _ in range(8)] == [503] * 8)
        answer = httpx.get(url + "/readyz")
        check_envelope(answer, 503, "SERVICE_UNAVAILABLE")
        assert answer.json()["message"] == "the gateway is stopping"
        assert httpx.get(url + "/livez").status_code == 200
        assert httpx.get(url + "/healthz").json()["status"] == "degraded"
        for answer in (kept.get("/livez"), predict(url)):
            assert answer.status_code == 200
            assert answer.headers["connection"] == "close"
        assert process.poll() is None


def test_after_the_notice_it_ends(stand_in: StandIn) -> None:
    with gateway(stand_in, SHUTDOWN_NOTICE_S="0.5") as (process, _):
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Traceback" not in log


def test_told_twice_it_ends_without_notice(stand_in: StandIn) -> None:
    with gateway(stand_in, SHUTDOWN_NOTICE_S="600") as (process, url):
        process.send_signal(signal.SIGTERM)
        until(lambda: status(url + "/readyz") == 503)
        time.sleep(1.1)  # within a second it is the same signal
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0


@pytest.mark.parametrize(("limit", "answered"), [("30", True), ("0", False)])
def test_accepted_requests_are_answered_within_the_limit(
    stand_in: StandIn, limit: str, answered: bool
) -> None:
    """Triton takes three seconds for it."""
    variables = {"SHUTDOWN_NOTICE_S": "0", "SHUTDOWN_TIMEOUT_S": limit}
    content = {"observations": [OBSERVATION]}
    with gateway(stand_in, **variables) as (process, url), ThreadPoolExecutor(1) as pool:
        stand_in.mode = "hang"
        stand_in.calls.clear()
        asked = pool.submit(httpx.post, url + "/predict", json=content, timeout=60)
        until(lambda: len(stand_in.calls) == 1)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0
        if answered:
            assert asked.result().status_code == 200
        else:
            assert asked.exception() is not None or asked.result().status_code >= 500


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.reliability)])
def test_told_at_once_and_nobody_is_let_in_who_is_not_answered(
    stand_in: StandIn, workers: str
) -> None:
    notice = {"SHUTDOWN_NOTICE_S": "1", "WORKERS": workers}
    for _ in range(3):  # the signal comes at any moment of the half second between its looks
        with gateway(stand_in, **notice) as (process, url):
            port = int(url.rpartition(":")[2])
            process.send_signal(signal.SIGTERM)
            assert (
                until(lambda port=port: [ask(port, "/readyz") for _ in range(8)] == [503] * 8)
                < 0.25
            )
            with ThreadPoolExecutor(8) as pool:
                callers = [pool.submit(ask_to_the_end, port, process) for _ in range(8)]
            answers = [answer for caller in callers for answer in caller.result()]
            assert len(answers) > 50
            assert set(answers) == {200}


def ask_to_the_end(port: int, process: subprocess.Popen[str]) -> list[int]:
    """Ask over new connections until none is let in; from then on none may be."""
    answers = []
    refused = False
    while process.poll() is None:
        try:
            answers.append(ask(port, "/livez"))
            assert not refused, "let in again"
        except ConnectionRefusedError:
            refused = True
        time.sleep(0.002)
    return answers


def ask(port: int, path: str) -> int:
    """Status of a GET over a new connection, 0 where it is reset; httpx would take 20 ms."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as one:
        try:
            one.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            return int(one.recv(99)[9:12] or 0)
        except ConnectionError:
            return 0
