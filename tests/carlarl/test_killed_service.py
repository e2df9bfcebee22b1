"""After SIGKILL of `carlarl serve` the next start has its ports; other services keep theirs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from carlarl.serving import cleanup
from tests.gateway.processes import predict
from tests.stack import ROOT, Stack, running_stack

pytestmark = pytest.mark.live

ODD = 'it\'s a "$HOME" & (größer) `id`; [x]'
"""What a shell or a pattern would read in another way."""


def family(stack: Stack) -> list[psutil.Process]:
    return psutil.Process(stack.process.pid).children(recursive=True)


def ports(stack: Stack) -> dict[str, str]:
    names = ("PORT", "TRITON_HTTP_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT")
    urls = (stack.gateway_url, stack.triton_http, stack.triton_grpc, stack.triton_metrics)
    return {name: url.rpartition(":")[2] for name, url in zip(names, urls, strict=True)}


@pytest.fixture
def killed() -> Iterator[tuple[Stack, list[psutil.Process]]]:
    """A service that was killed, and its children: a worker and Triton that are stopped, too."""
    with running_stack(WORKERS="2", SHUTDOWN_NOTICE_S="60") as stack:
        processes = family(stack)
        (triton,) = [one for one in processes if one.name() == "tritonserver"]
        worker = next(one for one in processes if "spawn_main" in " ".join(one.cmdline()))
        for one in (triton, worker):
            one.suspend()
        stack.process.kill()
        stack.process.wait()
        assert worker.is_running()
        try:
            yield stack, processes
        finally:
            for one in processes:
                if one.is_running():
                    one.kill()


def test_the_next_start_has_the_ports(killed: tuple[Stack, list[psutil.Process]]) -> None:
    stack, processes = killed
    with running_stack(**ports(stack)):
        assert predict(stack.gateway_url).status_code == 200
        assert psutil.wait_procs(processes, timeout=0)[1] == []


def test_a_live_service_of_another_pid_namespace_is_left_alone() -> None:
    """The sweep runs where the service's process is not seen, but its files are."""
    code = "from carlarl.serving import cleanup; cleanup.sweep()"
    inside = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    if os.getuid() != 0:
        inside.insert(1, "--map-root-user")
    with running_stack(WORKERS="2") as stack:
        before = sorted(cleanup.SHARED_MEMORY.glob(f"carlarl*{stack.process.pid}*"))
        assert before
        subprocess.run(inside, cwd=ROOT, check=True, timeout=60)
        assert sorted(cleanup.SHARED_MEMORY.glob(f"carlarl*{stack.process.pid}*")) == before
        assert predict(stack.gateway_url).status_code == 200


def test_any_path_will_do(tmp_path: Path) -> None:
    folder = tmp_path / f"a{ODD}b"
    folder.mkdir()
    repository = folder / "model_repository"
    subprocess.run(["cp", "-r", ROOT / "model_repository", repository], check=True)
    with running_stack(MODEL_REPOSITORY=str(repository), TMPDIR=str(folder), WORKERS="2") as stack:
        assert predict(stack.gateway_url).status_code == 200
        stack.process.send_signal(signal.SIGTERM)
        assert stack.process.wait(timeout=30) == 0
    assert list(folder.iterdir()) == [repository]
