"""Memory and processor time of a running service.

Memory is the proportional set size of its processes, without mapped files: the share of these
changes when any other process on the machine maps them.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from perf.bench.results import MemorySample


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that the gateway of a `carlarl serve` has used."""
    return _parts(_tree(pid), lambda process: sum(process.cpu_times()[:2]))[0]


def sample(pid: int, began: float, requests: int) -> MemorySample:
    """Measure `carlarl serve` with this process id, its children, and their shared memory."""
    tree = _tree(pid)
    gateway, triton = _parts(tree, lambda process: _held(process.pid))
    return MemorySample(
        seconds=round(time.monotonic() - began, 1),
        requests=requests,
        gateway=round(gateway / 1e6, 3),
        triton=round(triton / 1e6, 3),
        shm=round(_shared(tree) / 1e6, 3),
    )


def _tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _parts(
    tree: list[psutil.Process], figure: Callable[[psutil.Process], float]
) -> tuple[float, float]:
    """Return the sums of a figure over the gateway and over Triton with all below it."""
    triton: set[int] = set()
    sums = [0.0, 0.0]
    for process in tree:  # parents come first
        with suppress(psutil.NoSuchProcess):
            if process.name() == "tritonserver" or process.ppid() in triton:
                triton.add(process.pid)
            sums[process.pid in triton] += figure(process)
    return sums[0], sums[1]


def _held(pid: int) -> int:
    """Return the bytes of a process's proportional set size, without the files that it maps."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        sizes = dict(line.split(":", 1) for line in lines if line.startswith("Pss"))
        return 1024 * sum(int(sizes[kind].split()[0]) for kind in ("Pss_Anon", "Pss_Shmem"))
    return 0


def _shared(tree: list[psutil.Process]) -> int:
    """Return the bytes of the segments in /dev/shm that the processes map."""
    segments: set[Path] = set()
    for process in tree:
        with suppress(OSError):
            for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
                name = line.partition("/dev/shm/")[2]
                segments |= {Path("/dev/shm", name)} if name else set()
    total = 0
    for segment in segments:
        with suppress(OSError):
            total += 512 * segment.stat().st_blocks
    return total
