"""What `carlarl serve` says under LOG_FORMAT=json."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable

import psutil
import pytest

from tests.gateway.processes import until
from tests.stack import running_stack


def test_why_it_ended_is_one_line(carlarl: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = carlarl("serve", "--port", port, LOG_FORMAT="json")
    assert done.returncode == 1
    line = json.loads(done.stderr)
    assert (line["level"], line["logger"]) == ("ERROR", "carlarl.serve")
    assert line["message"].startswith(f"port {port} (PORT) can't be used")
    assert done.stdout == ""


@pytest.mark.live
def test_a_fall_is_a_warning() -> None:
    """With the end of Triton's log as its details, which says nothing of spans that stayed."""
    away = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    with running_stack(LOG_FORMAT="json", **away) as stack:
        (triton,) = [
            child
            for child in psutil.Process(stack.process.pid).children()
            if child.name() == "tritonserver"
        ]
        os.kill(triton.pid, signal.SIGKILL)
        until(lambda: "starting it again in" in stack.output())
        lines = [json.loads(line) for line in stack.output().splitlines()]
    (fell,) = [line for line in lines if "starting it again in" in line.get("details", "")]
    assert fell["level"] == "WARNING"
    assert fell["message"] == "Triton ended with status -9; the end of its log:"
