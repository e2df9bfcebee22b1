"""The metrics of several workers: each process writes one small file in a shared folder."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import msgpack
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gateway.observability.metric_families import Family, Gauge, State

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
"""Variable that names the folder; without it a process is alone."""

_decoder = msgpack.Decoder(State)


class Workers(Collector):
    """Collects the metrics of all workers for prometheus-client, or of this process if alone."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families
        self._state: State = {family.name: family.series for family in families}
        self.shared = MULTIPROCESS_DIR in os.environ
        self._folder = Path(os.environ.get(MULTIPROCESS_DIR, ""))
        self._file = self._folder / f"{time.time_ns()}-{os.getpid()}.msgpack"

    def publish(self) -> None:
        """Write this process's file, if there are other workers. Raises OSError."""
        if self.shared:
            part = self._file.with_suffix(".part")
            part.write_bytes(msgpack.encode(self._state))
            part.replace(self._file)

    def collect(self) -> Iterator[Metric]:
        """Merge what every process has counted, and the gauges of those that run."""
        states = self._read() if self.shared else [(self._state, True)]
        for family in self._families:
            lasting = not isinstance(family, Gauge)
            merged = [state for state, runs in states if runs or lasting]
            yield family.collect(merged, shared=self.shared)

    def _read(self) -> list[tuple[State, bool]]:
        """Return what each process wrote last, and whether it still runs."""
        paths = sorted(self._folder.glob("*.msgpack"))  # the oldest first: an id may come again
        newest = {path.stem.partition("-")[2]: path for path in paths}
        running = {path for pid, path in newest.items() if Path("/proc", pid).exists()}
        return [(_decoder.decode(path.read_bytes()), path in running) for path in paths]
