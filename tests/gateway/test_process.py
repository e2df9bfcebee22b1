"""`python -m gateway` as a process: how it starts, refuses to start, shares work and ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.gateway.processes import ROOT, free_port, predict, status, until
from tests.gateway.stand_in import StandIn


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


@pytest.mark.parametrize("content", [None, "", "# nothing\n", "secret\n", "\xff\xfe"])
def test_a_bad_file_of_keys(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    text = refused(PORT=str(free_port()), API_KEYS_FILE=str(path))
    assert text.startswith(f"API_KEYS_FILE={path}: ")
    assert "secret" not in text.removeprefix(f"API_KEYS_FILE={path}")


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
    until(lambda: "carla_rl_ready 1.0" in httpx.get(url + "/metrics").text)
    answers = [predict(url).status_code for _ in range(40)]
    while 503 in answers:  # The second worker may still be starting.
        answers = [predict(url).status_code for _ in range(40)]
    before = _observations(url)
    for _ in range(40):
        predict(url, 3)
    assert _observations(url) - before == 120
    assert {_observations(url) for _ in range(10)} == {before + 120}


def _observations(url: str) -> float:
    lines = httpx.get(url + "/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith("carla_rl_observations_total")]
    return float(line.rpartition(" ")[2])


def test_git_commit(run_gateway: Callable[..., str], stand_in: StandIn) -> None:
    url = run_gateway(TRITON_URL=stand_in.url, GIT_COMMIT="abc1234")
    answer = httpx.get(url + "/healthz").json()
    assert (answer["git"], answer["status"]) == ("abc1234", "ok")
    assert (answer["version"], answer["device"]) == ("v0.2.0", "cpu")
