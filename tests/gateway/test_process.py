"""`python -m gateway` as a process: how it starts, refuses to start, shares work and ends."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from gateway.config.settings import Settings
from tests.gateway.processes import OBSERVATION, ROOT, free_port, predict, status, until
from tests.gateway.stand_in import StandIn

BODY = {"observations": [OBSERVATION]}


def refused(**environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "gateway"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


def test_bad_settings() -> None:
    text = refused(PORT="80a", LOG_LEVEL="loud")
    assert "PORT=80a: must be a whole number from 1 to 65535\n" in text
    assert len(text.splitlines()) == 2


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_taken_port(workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        text = refused(PORT=str(port), WORKERS=workers)
    assert len(text.splitlines()) == 1
    assert f"PORT={port}: 127.0.0.1:{port} cannot be listened on (Address already in use" in text


def test_a_host_that_is_none() -> None:
    text = refused(PORT=str(free_port()), HOST="nowhere.invalid")
    assert text.startswith("HOST=nowhere.invalid: no such host (")
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [None, b"", b"# nothing\n", b"secret\n", b"\xff\xfe", hashlib.sha256().hexdigest().encode()],
)
def test_a_bad_file_of_keys(
    content: bytes | None,
    stand_in: StandIn,
    tmp_path: Path,
    run_gateway: Callable[..., str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Nobody is let in until it is mended: here with what Windows writes, a mark and CRLF."""
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    url = run_gateway(TRITON_URL=stand_in.url, API_KEYS_FILE=str(path))

    def asked(**headers: str) -> int:
        return httpx.post(url + "/predict", json=BODY, headers=headers).status_code

    assert {asked(), asked(**{"X-API-Key": ""}), asked(**{"X-API-Key": "good"})} == {503}
    said = capfd.readouterr().err
    assert f"API_KEYS_FILE={path}: " in said
    assert said.count("; nobody is let in\n") == 1
    assert "secret" not in said.replace(str(path), "")
    digest = hashlib.sha256(b"good").hexdigest()
    path.write_bytes(f"\ufeff# keys\r\n{digest}\r\n".encode())
    until(lambda: asked(**{"X-API-Key": "good"}) == 200)
    assert {asked(), asked(**{"X-API-Key": ""}), asked(Authorization="Bearer")} == {401}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_after_the_last_answer(stand_in: StandIn, number: signal.Signals) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway"],
        cwd=ROOT,
        env={**os.environ, "PORT": str(port), "TRITON_URL": stand_in.url},
        stderr=subprocess.PIPE,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    until(lambda: status(url + "/readyz") == 200)
    with httpx.Client() as client:
        assert client.get(url + "/livez").status_code == 200
        start = time.monotonic()
        process.send_signal(number)
        _, text = process.communicate(timeout=15)
    assert time.monotonic() - start < 5
    assert process.returncode == 0
    assert "Traceback" not in text
    assert "ERROR" not in text


def test_several_workers_count_together(stand_in: StandIn, run_gateway: Callable[..., str]) -> None:
    url = run_gateway(TRITON_URL=stand_in.url, WORKERS="2")
    until(lambda: _series(url, "carla_rl_queue_limit_observations") == 2 * Settings().max_waiting)
    until(lambda: _series(url, "carla_rl_ready") == 1)
    until(lambda: _series(url, "carla_rl_warm") == 1)
    counts = {
        "carla_rl_observations_total": 120,
        'carla_rl_requests_total{method="POST",route="/predict",status="200"}': 40,
        'carla_rl_request_seconds_count{method="POST",route="/predict"}': 40,
        "carla_rl_queue_wait_seconds_count": 40,
        'carla_rl_action_ratio_count{control="steer"}': 120,
    }
    for _ in range(40):
        assert predict(url, 3).status_code == 200
    until(lambda: {name: _series(url, name) for name in counts} == counts)
    memory = [_series(url, "carla_rl_resident_memory_bytes") for _ in range(10)]
    workers = _workers(url)
    assert len(workers) == 2
    resident = sum(worker.memory_info().rss for worker in workers)
    assert memory == [pytest.approx(resident, rel=0.1)] * 10
    assert _series(url, "carla_rl_queue_observations") == 0
    start = _series(url, "carla_rl_start_time_seconds")

    # A worker that is killed leaves its counts, and takes its gauges with it.
    workers[0].kill()
    until(lambda: len(set(_workers(url)) - {workers[0]}) == 2)
    until(lambda: _series(url, "carla_rl_queue_limit_observations") == 2 * Settings().max_waiting)
    until(lambda: _series(url, "carla_rl_ready") == 1)
    assert {name: _series(url, name) for name in counts} == counts
    assert _series(url, "carla_rl_start_time_seconds") >= start


def _workers(url: str) -> list[psutil.Process]:
    """The worker processes of the gateway at `url`."""
    port = url.rpartition(":")[2]
    (gateway,) = [one for one in psutil.Process().children() if one.environ().get("PORT") == port]
    alive = [one for one in gateway.children() if one.status() != psutil.STATUS_ZOMBIE]
    return [one for one in alive if "spawn_main" in " ".join(one.cmdline())]


def _series(url: str, series: str) -> float:
    """Value of one series; -1 where it is not there."""
    try:
        lines = httpx.get(url + "/metrics").text.splitlines()
    except httpx.TransportError:  # of a worker that is killed
        return -1
    found = [line for line in lines if line.startswith(series + " ")]
    return float(found[0].rpartition(" ")[2]) if found else -1


def test_git_commit(run_gateway: Callable[..., str], stand_in: StandIn) -> None:
    url = run_gateway(TRITON_URL=stand_in.url, GIT_COMMIT="abc1234")
    answer = httpx.get(url + "/healthz").json()
    assert (answer["git"], answer["status"]) == ("abc1234", "ok")
    assert (answer["version"], answer["device"]) == ("v0.2.0", "cpu")
