"""The gateway's Prometheus metrics, summed over its workers where there are several."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import generate_latest

from gateway.api.actions import Actions
from gateway.api.errors import CODES, ResourceExhausted
from gateway.observability.metric_families import Family, Histogram, Numbers
from gateway.observability.series import SAMPLED_ACTIONS, Series
from gateway.observability.workers import Workers

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
CONTROLS = ("throttle", "brake", "steer")
FLUSH_S = 1.0
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WS"})
"""Methods that are labels; all others count as `other`. WS is a step over WebSocket."""
ASKED = (("/predict", "POST"), ("/stream", "WS"))
ALERTED = (200, 429, 500, 502, 503, 504)
"""Statuses whose series begin at 0, so that `rate()` sees the first such answer."""

log = logging.getLogger(__name__)

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Metrics(Series):
    """What one gateway process counts; `follow` shares it with other workers each second."""

    def __init__(self) -> None:
        super().__init__()
        self._workers = Workers([one for one in vars(self).values() if isinstance(one, Family)])
        self.started.set(time.time())
        for name in CONTROLS:
            self.controls.labels(name)
        self._actions: dict[Actions, bytearray] = {}
        self._hits, self._misses = self.lookups.labels("hit"), self.lookups.labels("miss")
        self._children: dict[tuple[str, str, int], tuple[Numbers, Histogram]] = {}
        for asked in ASKED:
            for status in ALERTED:
                self._child((*asked, status))
        for reason in ("stale", "unhealthy"):
            self.distrusted.labels(reason)
        self._errors = {code: self.errors.labels(code) for code in CODES}
        self._active: tuple[str, str, str] | None = None
        self._waiting: Callable[[], int] = lambda: 0
        self._reconnected: Callable[[], int] = lambda: 0

    def watch(self, waiting: Callable[[], int], reconnected: Callable[[], int]) -> None:
        """Take functions that return how many observations wait, and the reconnects so far."""
        self._waiting = waiting
        self._reconnected = reconnected

    def answered(
        self, route: str, method: str, status: int, seconds: float, error: str | None
    ) -> None:
        """Count one answered request; `route` is a template, never the raw path."""
        key = (route, method if method in METHODS else "other", status)
        children = self._children.get(key)
        if children is None:
            children = self._child(key)
        children[0][0] += 1
        children[1].observe(seconds)
        if error is not None:
            self._errors[error].inc()

    def called(self, observations: int, seconds: float, waits: Iterable[float]) -> None:
        """Count one Triton call that was answered, and how long each request waited for it."""
        self.joined.observe(observations)
        self.inference.observe(seconds)
        for wait in waits:
            self.wait.observe(wait)

    @contextmanager
    def golden(self) -> Iterator[None]:
        """Time one golden inference; one that raises is counted, unless Triton was too busy."""
        start = time.perf_counter()
        try:
            yield
        except ResourceExhausted:
            raise
        except Exception:
            self.golden_failures.inc()
            raise
        self.golden_seconds.observe(time.perf_counter() - start)

    def acted(self, observations: int, content: bytes, actions: Actions) -> None:
        """Count observations that got an action; what Triton gave for them is finite."""
        self.observations.numbers[0] += observations
        sample = self._actions.get(actions)
        if sample is None:
            sample = self._actions[actions] = bytearray()
        if len(sample) < SAMPLED_ACTIONS * actions.row_bytes:
            sample += content

    def looked_up(self, hits: int, misses: int) -> None:
        """Count hits and misses of the cache."""
        self._hits.inc(hits)
        self._misses.inc(misses)

    def activated(self, version: str, artifact_digest: str, device: str) -> None:
        """Note the version that answers from now on."""
        labels = (version, artifact_digest, device)
        if self._active not in (None, labels):
            self.version.labels(*self._active).set(0)
        self.version.labels(*labels).set(1)
        self._active = labels

    async def follow(self) -> None:
        """Flush once a second, for ever."""
        while True:
            self.flush()
            await asyncio.sleep(FLUSH_S)

    def flush(self) -> None:
        """Update the gauges, and share everything with the other workers."""
        for actions, sample in self._actions.items():
            shown = [self.controls.labels(name) for name in actions.labels]
            for row in actions.rows(sample[: SAMPLED_ACTIONS * actions.row_bytes]):
                for histogram, number in zip(shown, row, strict=False):
                    histogram.observe(number)
        self._actions.clear()
        self.reconnects.numbers[0] = self._reconnected()
        self.queue.set(self._waiting())
        try:
            self.memory.set(_resident_bytes())
            self._workers.publish()
        except OSError as error:  # no room, or too many open files
            log.warning("the metrics can't be shared with other workers: %s", error)

    async def exposition(self) -> bytes:
        """Write all series in Prometheus' text format."""
        self.flush()
        if self._workers.shared:  # files, which take their time
            return await asyncio.to_thread(generate_latest, self._workers)
        return generate_latest(self._workers)

    def _child(self, key: tuple[str, str, int]) -> tuple[Numbers, Histogram]:
        """Return what counts the answers of one route, method and status."""
        route, method, status = key
        numbers = self.requests.labels(route, method, str(status)).numbers
        self._children[key] = children = (numbers, self.latency.labels(route, method))
        return children


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
