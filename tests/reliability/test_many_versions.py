"""Two and forty versions in the repository: start, processes, memory, and promotion under load."""

from __future__ import annotations

import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from carlarl.promotion import promote
from carlarl.promotion.triton_control import TritonControl
from converters.repository import repository
from perf.load import open_loop, target
from tests.carlarl.test_loading import processes
from tests.carlarl.test_promotion import copy_version
from tests.reliability import page
from tests.stack import ROOT, running_stack

pytestmark = pytest.mark.reliability

RATE, QUIET_S, SECONDS = 200, 20, 100
PAUSE_S = 5.0


def megabytes(root: psutil.Process) -> float:
    family = [root, *root.children(recursive=True)]
    return sum(one.memory_full_info().pss for one in family) / 1e6


@pytest.mark.parametrize("count", [2, 40])
def test_promotion_under_load(count: int, tmp_path: Path) -> None:
    """A version that is new is exported and promoted, again and again."""
    root = tmp_path / "model_repository"
    shutil.copytree(ROOT / "model_repository", root, ignore=shutil.ignore_patterns("*torchscript*"))
    for number in range(1, count - 1):
        copy_version(root, "v0.1.0", f"v0.0.{number}")
    with running_stack(MODEL_REPOSITORY=str(root)) as stack:
        found = re.search(r"serving .* after ([\d.]+) s", stack.output())
        assert found
        started = processes(stack)
        assert len(started) == 5  # two versions' steps, and the active one's fused model
        held = megabytes(psutil.Process(stack.process.pid))
        asked = target.gateway(stack.gateway_url)
        quiet = open_loop.run(asked, RATE, QUIET_S)
        turns = 0
        with ThreadPoolExecutor(1) as pool, TritonControl(f"http://{stack.triton_http}") as triton:
            load = pool.submit(open_loop.run, asked, RATE, SECONDS)
            began = time.monotonic()
            while time.monotonic() < began + SECONDS - 2 * PAUSE_S:
                time.sleep(PAUSE_S)
                turns += 1
                version = f"v1.0.{turns}"
                with repository.transaction(root) as tree:
                    copy_version(tree, ("v0.1.0", "v0.2.0")[turns % 2], version)
                before = processes(stack)
                promote.promote(root, version, triton)
                after = processes(stack)
                assert before.items() <= after.items()
                new = [model for pid, model in after.items() if pid not in before]
                assert len(new) == 3
                assert all(model.endswith(f"-{version}") for model in new)
            busy = load.result()
    cells = [f"{count}", found[1], f"{len(started)}", f"{held:,.0f}", f"{turns}"]
    cells += [f"{busy.requests:,}", f"{sum(busy.errors.values())}"]
    cells += [f"{one.latency_ms.p99:.1f}" for one in (quiet, busy)]
    page.add("versions", *cells)
    assert not busy.errors, cells
