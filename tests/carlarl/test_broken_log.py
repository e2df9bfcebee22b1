"""A full disk or a closed pipe behind the log ends nothing, and stops no restart."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from tests.gateway.processes import predict, status, until
from tests.stack import ROOT, clean_environment, free_ports, port_variables

pytestmark = pytest.mark.live


def closed_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.reliability
@pytest.mark.parametrize(("kind", "log_format"), [("pipe", "text"), ("disk", "json")])
def test_triton_comes_back(kind: str, log_format: str) -> None:
    ports = free_ports(4)
    url = f"http://127.0.0.1:{ports[0]}"
    log = closed_pipe() if kind == "pipe" else os.open("/dev/full", os.O_WRONLY)
    process = subprocess.Popen(
        [sys.executable, "-m", "carlarl", "serve"],
        cwd=ROOT,
        env=clean_environment() | port_variables(ports) | {"LOG_FORMAT": log_format},
        stdout=log,
        stderr=log,
    )
    os.close(log)
    try:
        until(lambda: status(f"{url}/readyz") == 200 or process.poll() is not None, 60)
        children = psutil.Process(process.pid).children()
        next(one for one in children if one.name() == "tritonserver").kill()
        until(lambda: status(f"{url}/readyz") == 503, 20)
        until(lambda: status(f"{url}/readyz") == 200 or process.poll() is not None, 60)
        assert predict(url).status_code == 200
        process.terminate()
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
