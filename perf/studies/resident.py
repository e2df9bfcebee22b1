"""The memory that a running service holds.

It is the proportional set size of its processes, without mapped files: the share of these changes
when any other process on the machine maps them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from perf.bench.results import MemorySample


def sample(pid: int, began: float, requests: int) -> MemorySample:
    """Measure `carlarl serve` with this process id, its children, and their shared memory."""
    root = psutil.Process(pid)
    tree = [root, *root.children(recursive=True)]
    triton: set[int] = set()
    for process in tree:
        with suppress(psutil.NoSuchProcess):
            if process.name() == "tritonserver":
                triton |= {process.pid, *(one.pid for one in process.children(recursive=True))}
    held = {"gateway": 0, "triton": 0}
    for process in tree:
        with suppress(psutil.NoSuchProcess):
            part = "triton" if process.pid in triton else "gateway"
            held[part] += _held(process.pid)
    return MemorySample(
        seconds=round(time.monotonic() - began, 1),
        requests=requests,
        gateway=round(held["gateway"] / 1e6, 3),
        triton=round(held["triton"] / 1e6, 3),
        shm=round(_shared(process.pid for process in tree) / 1e6, 3),
    )


def _held(pid: int) -> int:
    """Give the bytes of a process's proportional set size, without the files that it maps."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        sizes = dict(line.split(":", 1) for line in lines if line.startswith("Pss"))
        return 1024 * sum(int(sizes[kind].split()[0]) for kind in ("Pss_Anon", "Pss_Shmem"))
    return 0


def _shared(pids: Iterable[int]) -> int:
    """Give the bytes of the segments in /dev/shm that the processes map."""
    segments: set[str] = set()
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                name = line.partition("/dev/shm/")[2]
                if name and not name.endswith(" (deleted)"):
                    segments.add(name)
    total = 0
    for name in segments:
        with suppress(OSError):
            total += os.stat(f"/dev/shm/{name}").st_blocks * 512
    return total
