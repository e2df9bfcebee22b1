"""The gateway's Prometheus metrics, summed over its workers where there are several."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import Struct

from prometheus_client import generate_latest

from gateway.api.errors import CODES, ResourceExhausted
from gateway.observability import workers
from gateway.observability.metric_families import Count, Distribution
from gateway.observability.series import SAMPLED_ACTIONS, Series
from gateway.triton.batch import ACTION_BYTES

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
CONTROLS = ("throttle", "brake", "steer")
FLUSH_S = 1.0
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WS"})
"""Methods that are counted by their names; WS: a step over WebSocket."""
ASKED = (("/predict", "POST"), ("/stream", "WS"))
ALERTED = (200, 429, 500, 502, 503, 504)
"""Statuses whose first answer already raises a rate, since their series begin at 0."""

log = logging.getLogger(__name__)

_ACTION = Struct("<3f")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Metrics:
    """What one gateway process counts, and hands to its series.

    What is counted with every request is gathered in plain numbers. `follow` hands it on once a
    second, for other workers to see; where there are none, `exposition` does so too.
    """

    def __init__(self) -> None:
        """Start at 0, apart from any other gateway of this process."""
        self._shared = workers.MULTIPROCESS_DIR in os.environ
        self._series = series = Series()
        self.queue_limit, self.streams = series.queue_limit, series.streams
        self.ready, self.warm = series.ready, series.warm
        self._inference, self._wait = Distribution(series.inference), Distribution(series.wait)
        self._joined, self._observations = Distribution(series.joined), Count(series.observations)
        self._controls = [Distribution(series.controls.labels(name)) for name in CONTROLS]
        self._actions = bytearray()
        self._hits, self._misses = series.lookups.labels("hit"), series.lookups.labels("miss")
        self._tallies: list[Count | Distribution] = [
            self._inference, self._wait, self._joined, self._observations, *self._controls
        ]  # fmt: skip
        self._latencies: dict[tuple[str, str], Distribution] = {}
        self._children: dict[tuple[str, str, int], tuple[Count, Distribution]] = {}
        for asked in ASKED:
            for status in ALERTED:
                self._child((*asked, status))
        for code in CODES:
            series.errors.labels(code)
        self._active: tuple[str, str, str] | None = None
        self._waiting: Callable[[], int] = lambda: 0
        self._reconnected: Callable[[], int] = lambda: 0
        self._reconnects_seen = 0

    def watch(self, waiting: Callable[[], int], reconnected: Callable[[], int]) -> None:
        """Ask at every flush how many observations wait, and for the count of reconnects so far."""
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
        children[0].number += 1
        children[1].observe(seconds)
        if error is not None:
            self._series.errors.labels(error).inc()

    def called(self, observations: int, seconds: float, waits: Iterable[float]) -> None:
        """Count one Triton call that was answered, and how long each request waited for it."""
        self._joined.observe(observations)
        self._inference.observe(seconds)
        for wait in waits:
            self._wait.observe(wait)

    @contextmanager
    def golden(self) -> Iterator[None]:
        """Time one golden inference; one that raises is counted, unless Triton was too busy."""
        start = time.perf_counter()
        try:
            yield
        except ResourceExhausted:
            raise
        except Exception:
            self._series.golden_failures.inc()
            raise
        self._series.golden.observe(time.perf_counter() - start)

    def expired(self) -> None:
        """Count one request that was late before it was sent."""
        self._series.expired.inc()

    def refused(self) -> None:
        """Count one connection beyond the limit."""
        self._series.refused.inc()

    def skipped(self) -> None:
        """Count one step of a stream that a later one overtook."""
        self._series.skipped.inc()

    def acted(self, observations: int, actions: bytes) -> None:
        """Count observations that got an action; `actions` are finite, as Triton gives them."""
        self._observations.number += observations
        if len(self._actions) < SAMPLED_ACTIONS * ACTION_BYTES:
            self._actions += actions

    def looked_up(self, hits: int, misses: int) -> None:
        """Count what the cache had and had not."""
        self._hits.inc(hits)
        self._misses.inc(misses)

    def activated(self, version: str, artifact_digest: str, device: str) -> None:
        """Note the version that answers from now on."""
        labels = (version, artifact_digest, device)
        if self._active not in (None, labels):
            self._series.version.labels(*self._active).set(0)
        self._series.version.labels(*labels).set(1)
        self._active = labels

    async def follow(self) -> None:
        """Flush once a second, for ever."""
        while True:
            try:
                self.flush()
            except Exception:
                log.exception("handing on what was counted failed")
            await asyncio.sleep(FLUSH_S)

    def flush(self) -> None:
        """Hand on what was gathered, and look at what changes by itself."""
        throttle, brake, steer = self._controls
        for one in _ACTION.iter_unpack(self._actions[: SAMPLED_ACTIONS * ACTION_BYTES]):
            throttle.observe(one[0])
            brake.observe(one[1])
            steer.observe(one[2])
        self._actions.clear()
        for tally in self._tallies:
            tally.flush()
        reconnects = self._reconnected()
        self._series.reconnects.inc(reconnects - self._reconnects_seen)
        self._reconnects_seen = reconnects
        self._series.queue.set(self._waiting())
        self._series.memory.set(_resident_bytes())

    async def exposition(self) -> bytes:
        """Write all series in Prometheus' text format."""
        self.flush()
        if self._shared:  # files, which take their time
            return await asyncio.to_thread(workers.together)
        return generate_latest(self._series.registry)

    def close(self) -> None:
        """Hand on the last counts, and take this process's gauges out of the sum."""
        self.flush()
        if self._shared:
            workers.leave()

    def _child(self, key: tuple[str, str, int]) -> tuple[Count, Distribution]:
        """Make what counts the answers of one route, method and status."""
        count, asked = Count(self._series.requests.labels(*key)), key[:2]
        self._tallies.append(count)
        if asked not in self._latencies:
            self._latencies[asked] = Distribution(self._series.latency.labels(*asked))
            self._tallies.append(self._latencies[asked])
        self._children[key] = children = (count, self._latencies[asked])
        return children


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
