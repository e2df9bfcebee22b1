"""What is killed, stopped or restarted under load, and what the callers see of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests import page
from tests.carlarl.test_supervision import gateway, model, triton, worker
from tests.gateway.processes import predict, status, until
from tests.reliability.load import LOST, REFUSED, Load
from tests.stack import ROOT, Stack, free_ports, running_stack

pytestmark = pytest.mark.reliability

LEAD_S = 2.0
CODES = (429, 503, 504, REFUSED, LOST)


def record(what: str, load: Load, struck: float) -> None:
    counts = load.counts()
    began, lasted = load.outage(struck)
    cells = [what, f"{counts.total():,}", *(f"{counts[code]:,}" for code in CODES)]
    cells += [f"{counts.total() - counts[200] - sum(counts[code] for code in CODES):,}"]
    cells += [f"{began:.1f}", f"{lasted:.1f}"]
    page.add("faults", *cells)


@pytest.fixture(scope="module")
def service() -> Iterator[Stack]:
    with running_stack(WORKERS="2", RESTART_TRIES="99") as stack:
        yield stack


def stop(process: psutil.Process, seconds: float) -> None:
    process.suspend()
    time.sleep(seconds)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()


FAULTS = {
    "`SIGKILL` of a gateway worker, of two": lambda stack: worker(stack).kill(),
    "`SIGKILL` of the gateway": lambda stack: gateway(stack).kill(),
    "`SIGKILL` of Triton": lambda stack: triton(stack).kill(),
    "`SIGKILL` of the active policy's process": lambda stack: model(
        stack, "/carla_policy_fused-v0.2.0/"
    ).kill(),
    "`SIGKILL` of another version's process": lambda stack: model(
        stack, "/policy_onnx-v0.1.0/"
    ).kill(),
    "`SIGSTOP` of Triton for 10 s": lambda stack: stop(triton(stack), 10),
    "`SIGSTOP` of Triton for good": lambda stack: stop(triton(stack), 30),
}


@pytest.mark.parametrize("what", FAULTS)
def test_it_recovers(service: Stack, what: str) -> None:
    url = service.gateway_url
    with Load(url) as load:
        time.sleep(LEAD_S)
        struck = time.monotonic()
        FAULTS[what](service)
        time.sleep(4)  # what falls is seen by then
        until(lambda: [status(url + "/readyz") for _ in range(8)] == [200] * 8, 90)
        until(lambda: [predict(url).status_code for _ in range(8)] == [200] * 8, 90)
        time.sleep(LEAD_S)
    record(what, load, struck)
    counts = load.counts()
    assert set(counts) <= {200, *CODES}, counts
    assert service.process.poll() is None
    assert load.answers[-1][1] == 200


HAPROXY = """
global
    stats socket {folder}/haproxy.sock mode 600 level admin
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    retries 3
    option redispatch
    retry-on conn-failure empty-response
frontend callers
    bind 127.0.0.1:{port}
    default_backend gateways
backend gateways
    balance roundrobin
    option httpchk GET /readyz
    default-server check inter 200ms fall 1 rise 1
    server first {first}
    server second {second}
"""


@contextlib.contextmanager
def proxy(folder: Path, first: str, second: str) -> Iterator[str]:
    haproxy = shutil.which("haproxy")
    assert haproxy, "apt-get install haproxy"
    port = free_ports(1)[0]
    path = folder / "haproxy.cfg"
    path.write_text(HAPROXY.format(folder=folder, port=port, first=first, second=second))
    process = subprocess.Popen([haproxy, "-db", "-f", str(path)])
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: status(url + "/readyz") == 200)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def test_a_rolling_restart_loses_nothing(tmp_path: Path) -> None:
    """Two gateways before one Triton; each is ended by SIGTERM and started again."""
    ports = free_ports(2)
    urls = [f"http://127.0.0.1:{port}" for port in ports]

    def start(port: int, triton_http: str) -> subprocess.Popen[bytes]:
        variables = {"PORT": str(port), "TRITON_URL": f"http://{triton_http}"}
        command = [sys.executable, "-m", "gateway"]
        return subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **variables, "SHUTDOWN_NOTICE_S": "2"}
        )

    with running_stack() as stack, contextlib.ExitStack() as ends:
        running = [start(port, stack.triton_http) for port in ports]
        ends.callback(lambda: [one.kill() or one.wait() for one in running])
        until(lambda: [status(url + "/readyz") for url in urls] == [200, 200])
        addresses = [url.removeprefix("http://") for url in urls]
        with proxy(tmp_path, *addresses) as url, Load(url) as load:
            time.sleep(LEAD_S)
            struck = time.monotonic()
            for index, port in enumerate(ports):
                running[index].send_signal(signal.SIGTERM)
                assert running[index].wait(30) == 0
                running[index] = start(port, stack.triton_http)
                until(lambda index=index: status(urls[index] + "/readyz") == 200)
                time.sleep(LEAD_S)
        record("rolling restart of two gateways behind haproxy", load, struck)
    assert set(load.counts()) == {200}, load.counts()
