"""Two and forty versions in the repository: start, processes, memory, and promotion under load."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from converters.repository import repository
from perf.load import open_loop, target
from perf.load.measurement import Measurement
from tests import page
from tests.carlarl.test_loading import processes
from tests.carlarl.test_promotion import copy_version
from tests.stack import ROOT, running_stack

pytestmark = pytest.mark.reliability

RATE, WINDOW_S, PAIRS = 200, 5, 10
WORSE = 2.5
"""How many times higher than just before it p99 may be during a promotion, in the median.

2.1 was measured on two cores: the processes of a version need half a second of CPU to start.
"""


def megabytes(root: psutil.Process) -> float:
    family = [root, *root.children(recursive=True)]
    return sum(one.memory_full_info().pss for one in family) / 1e6


@pytest.mark.parametrize("count", [2, 40])
def test_promotion_under_load(
    count: int, tmp_path: Path, carlarl: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """A version that is new is promoted, again and again, each time after a quiet window.

    Both windows of a pair see the same machine, so that its other work counts little.
    """
    root = tmp_path / "model_repository"
    shutil.copytree(ROOT / "model_repository", root, ignore=shutil.ignore_patterns("*torchscript*"))
    for number in range(1, count - 1):
        copy_version(root, "v0.1.0", f"v0.0.{number}")
    with running_stack(MODEL_REPOSITORY=str(root)) as stack, ThreadPoolExecutor(1) as pool:
        found = re.search(r"serving .* after ([\d.]+) s", stack.output())
        assert found
        started = processes(stack)
        assert len(started) == 5  # two versions' steps, and the active one's fused model
        held = megabytes(psutil.Process(stack.process.pid))
        asked = target.gateway(stack.gateway_url)
        windows: list[tuple[Measurement, Measurement]] = []
        for turn in range(1, PAIRS + 1):
            version = f"v1.0.{turn}"
            with repository.transaction(root) as tree:
                copy_version(tree, ("v0.1.0", "v0.2.0")[turn % 2], version)
            quiet = open_loop.run(asked, RATE, WINDOW_S)
            before = processes(stack)
            load = pool.submit(open_loop.run, asked, RATE, WINDOW_S)
            time.sleep(0.5)  # until its process has started
            done = carlarl("promote", version, "--repository", str(root))
            assert done.returncode == 0, done.stderr
            windows.append((quiet, load.result()))
            new = [model for pid, model in processes(stack).items() if pid not in before]
            assert len(new) == 3
            assert all(model.endswith(f"-{version}") for model in new)
    every = [one for pair in windows for one in pair]
    failed = sum(sum(one.errors.values()) for one in every)
    p99 = [[one.latency_ms.p99 for one in pair] for pair in windows]
    cells = [f"{count}", found[1], f"{len(started)}", f"{held:,.0f}", f"{len(windows)}"]
    cells += [f"{sum(one.requests for one in every):,}", f"{failed}"]
    cells += [f"{statistics.median(column):.1f}" for column in zip(*p99, strict=True)]
    page.add("versions", *cells)
    assert not failed, cells
    assert statistics.median(busy / quiet for quiet, busy in p99) <= WORSE, p99
