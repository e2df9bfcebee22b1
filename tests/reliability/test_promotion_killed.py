"""A promotion killed at each of its steps: the repository loads, and the next promotion works."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from carlarl.promotion import promote
from carlarl.promotion.triton_control import TritonControl
from converters.repository import repository
from converters.repository.preflight import check_files
from tests.gateway.processes import predict, status, until
from tests.stack import ROOT, clean_environment, running_stack

pytestmark = pytest.mark.reliability

KILLED = """
import os, signal, sys
from pathlib import Path
from carlarl.promotion import promote
from carlarl.promotion.triton_control import TritonControl
steps = []
def progress(step):
    steps.append(step)
    if len(steps) > int(sys.argv[3]):
        print(step, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
with TritonControl(sys.argv[2]) as control:
    promote.promote(Path(sys.argv[1]), "v0.1.0", control, progress)
"""


def test_killed_at_each_step(tmp_path: Path) -> None:
    target = tmp_path / "model_repository"
    shutil.copytree(ROOT / "model_repository", target)
    killed_at = []
    with running_stack(MODEL_REPOSITORY=str(target)) as stack:
        triton = f"http://{stack.triton_http}"
        while True:
            command = [sys.executable, "-c", KILLED, str(target), triton, str(len(killed_at))]
            done = subprocess.run(
                command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True
            )
            if done.returncode == 0:
                break
            assert done.returncode == -signal.SIGKILL, done.stderr
            killed_at.append(done.stdout.strip())
            active = repository.active_version(target)
            assert active in ("v0.1.0", "v0.2.0")
            for version in repository.versions(target):
                check_files(target, version.version)
            until(lambda: status(stack.gateway_url + "/readyz") == 200)
            assert predict(stack.gateway_url).status_code == 200
            with TritonControl(triton) as control:  # the next one works, and clears up
                promote.promote(target, "v0.2.0", control)
            left = {path.name for path in tmp_path.iterdir()}
            assert left == {"model_repository", ".model_repository.lock"}
    assert killed_at[0] == "read the repository"
    assert killed_at[-1] == "check the alias"
    with running_stack(MODEL_REPOSITORY=str(target)) as stack:
        assert predict(stack.gateway_url).json()["version"] == "v0.1.0"
