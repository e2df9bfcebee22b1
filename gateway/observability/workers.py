"""Where the metrics of several workers meet: files of prometheus-client, some for each process."""

import os
import re
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest, multiprocess

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
"""Variable that names the folder; without it a process is alone."""

_LIVE_GAUGES = re.compile(r"gauge_live\w+_(\d+)\.db")


def together() -> bytes:
    """Write the series of all workers in Prometheus' text format."""
    _forget_killed()
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def leave() -> None:
    """Take this process's gauges out of the sum; what it has counted stays."""
    multiprocess.mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]


def _forget_killed() -> None:
    """Remove the gauges of workers that were killed: they could not do it themselves."""
    for path in Path(os.environ[MULTIPROCESS_DIR]).iterdir():
        worker = _LIVE_GAUGES.fullmatch(path.name)
        if worker is not None and not Path("/proc", worker[1]).exists():
            path.unlink(missing_ok=True)
