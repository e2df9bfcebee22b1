"""The gateway's Prometheus metrics, summed over its workers where there are several."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import Struct

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from gateway import workers
from gateway.errors import ResourceExhausted
from gateway.rows import ACTION_BYTES
from gateway.tallies import Count, Distribution

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (
    0.00025, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075,
    0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
)  # fmt: skip
CONTROLS = ("throttle", "brake", "steer")
CONTROL_BUCKETS = tuple(eighth / 8 for eighth in range(-8, 9))
SAMPLED_ACTIONS = 2048
"""Actions that are looked at between two flushes: a millisecond's work, and enough to see drift."""
FLUSH_S = 1.0
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WS"})
"""Methods that are counted by their names; WS: a step over WebSocket."""

log = logging.getLogger(__name__)

_ACTION = Struct("<3f")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Metrics:
    """All series of one gateway process; every label takes a bounded set of values.

    What is counted with every request is gathered in plain numbers. `follow` hands it on once a
    second, for other workers to see; where there are none, `exposition` does so too.
    """

    def __init__(self) -> None:
        """Register every series anew, apart from any other gateway's of this process."""
        registry = CollectorRegistry()
        self._shared = workers.MULTIPROCESS_DIR in os.environ
        self._registry = registry
        self._requests = Counter(
            "carla_rl_requests",
            "Requests answered.",
            ("route", "method", "status"),
            registry=registry,
        )
        self._latency = Histogram(
            "carla_rl_request_seconds",
            "Time from a request's arrival to the start of its answer.",
            ("route",),
            buckets=BUCKETS_S,
            registry=registry,
        )
        inference = Histogram(
            "carla_rl_inference_seconds",
            "Time of one Triton call.",
            buckets=BUCKETS_S,
            registry=registry,
        )
        wait = Histogram(
            "carla_rl_queue_wait_seconds",
            "Time from a request's arrival in the line, or a part's of a large one, to its call.",
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._queue = Gauge(
            "carla_rl_queue_observations",
            "Observations that wait for a Triton call.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.queue_limit = Gauge(
            "carla_rl_queue_limit_observations",
            "Observations that may wait (MAX_WAITING).",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._reconnects = Counter(
            "carla_rl_triton_reconnects",
            "Connections to Triton that were opened in the place of lost ones.",
            registry=registry,
        )
        self._golden = Histogram(
            "carla_rl_golden_seconds",
            "Time of one golden inference of the active version, about one a second.",
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._golden_failures = Counter(
            "carla_rl_golden_failures",
            "Golden inferences that failed or gave another action.",
            registry=registry,
        )
        self._refused = Counter(
            "carla_rl_refused_connections", "Connections beyond the limit.", registry=registry
        )
        self._expired = Counter(
            "carla_rl_expired",
            "Requests, or parts of large ones, whose deadline passed before they went to Triton.",
            registry=registry,
        )
        joined = Histogram(
            "carla_rl_joined_observations",
            "Observations that travelled in one Triton call.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        observations = Counter(
            "carla_rl_observations", "Observations that got an action.", registry=registry
        )
        controls = Histogram(
            "carla_rl_action_ratio",
            f"Controls of the actions given: of the first {SAMPLED_ACTIONS} in a second.",
            ("control",),
            buckets=CONTROL_BUCKETS,
            registry=registry,
        )
        self._inference, self._wait = Distribution(inference), Distribution(wait)
        self._joined, self._observations = Distribution(joined), Count(observations)
        self._controls = [Distribution(controls.labels(name)) for name in CONTROLS]
        self._actions = bytearray()
        lookups = Counter(
            "carla_rl_cache_lookups",
            "Deterministic observations looked up in the cache.",
            ("result",),
            registry=registry,
        )
        self._hits, self._misses = lookups.labels("hit"), lookups.labels("miss")
        self._tallies: list[Count | Distribution] = [
            self._inference, self._wait, self._joined, self._observations, *self._controls
        ]  # fmt: skip
        self._routes: dict[str, Distribution] = {}
        self._children: dict[tuple[str, str, int], tuple[Count, Distribution]] = {}
        self.streams = Gauge(
            "carla_rl_streams",
            "Streams that are open.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._skipped = Counter(
            "carla_rl_skipped",
            "Steps that a later one overtook before they went to Triton.",
            registry=registry,
        )
        self._errors = Counter("carla_rl_errors", "Errors answered.", ("code",), registry=registry)
        self._version = Gauge(
            "carla_rl_active_version_info",
            "1 for the version that answers where a request names none.",
            ("version", "artifact_digest", "device"),
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.ready = Gauge(
            "carla_rl_ready",
            "1 where the active version answers its golden inference, in every worker.",
            multiprocess_mode="livemin",
            registry=registry,
        )
        self.warm = Gauge(
            "carla_rl_warm",
            "1 where the active version has answered since Triton was last away, in every worker.",
            multiprocess_mode="livemin",
            registry=registry,
        )
        Gauge(
            "carla_rl_start_time_seconds",
            "When the gateway started, or the oldest of its workers: seconds since 1970.",
            multiprocess_mode="livemin",
            registry=registry,
        ).set_to_current_time()
        self._memory = Gauge(
            "carla_rl_resident_memory_bytes",
            "Resident memory of the gateway.",
            multiprocess_mode="livesum",
            registry=registry,
        )
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
            children = self._children[key] = self._child(key)
        children[0].number += 1
        children[1].observe(seconds)
        if error is not None:
            self._errors.labels(error).inc()

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
            self._golden_failures.inc()
            raise
        self._golden.observe(time.perf_counter() - start)

    def expired(self) -> None:
        """Count one request that was late before it was sent."""
        self._expired.inc()

    def refused(self) -> None:
        """Count one connection beyond the limit."""
        self._refused.inc()

    def skipped(self) -> None:
        """Count one step of a stream that a later one overtook."""
        self._skipped.inc()

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
            self._version.labels(*self._active).set(0)
        self._version.labels(*labels).set(1)
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
        self._reconnects.inc(reconnects - self._reconnects_seen)
        self._reconnects_seen = reconnects
        self._queue.set(self._waiting())
        self._memory.set(_resident_bytes())

    def exposition(self) -> bytes:
        """Write all series in Prometheus' text format."""
        self.flush()
        return workers.together() if self._shared else generate_latest(self._registry)

    def close(self) -> None:
        """Hand on the last counts, and take this process's gauges out of the sum."""
        self.flush()
        if self._shared:
            workers.leave()

    def _child(self, key: tuple[str, str, int]) -> tuple[Count, Distribution]:
        """Make what counts the answers of one route, method and status."""
        count, route = Count(self._requests.labels(*key)), key[0]
        self._tallies.append(count)
        if route not in self._routes:
            self._routes[route] = Distribution(self._latency.labels(route))
            self._tallies.append(self._routes[route])
        return count, self._routes[route]


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
