"""The gateway's Prometheus metrics, summed over its workers where there are several."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

from gateway.errors import ResourceExhausted

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (
    0.00025, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075,
    0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
)  # fmt: skip
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WS"})
"""Methods that are counted by their names; WS: a step over WebSocket."""


class Metrics:
    """All series of one gateway process; every label takes a bounded set of values."""

    def __init__(self) -> None:
        """Register every series anew, apart from any other gateway's of this process."""
        registry = CollectorRegistry()
        self._shared = MULTIPROCESS_DIR in os.environ
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
        self._inference = Histogram(
            "carla_rl_inference_seconds",
            "Time of one Triton call.",
            buckets=BUCKETS_S,
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
        self._joined = Histogram(
            "carla_rl_joined_observations",
            "Observations that travelled in one Triton call.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self._observations = Counter(
            "carla_rl_observations", "Observations that got an action.", registry=registry
        )
        lookups = Counter(
            "carla_rl_cache_lookups",
            "Deterministic observations looked up in the cache.",
            ("result",),
            registry=registry,
        )
        self._hits, self._misses = lookups.labels("hit"), lookups.labels("miss")
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
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
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
            "1 where the active version has answered its golden inference.",
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self._active: tuple[str, str, str] | None = None

    def answered(
        self, route: str, method: str, status: int, seconds: float, error: str | None
    ) -> None:
        """Count one answered request; `route` is a template, never the raw path."""
        key = (route, method if method in METHODS else "other", status)
        children = self._children.get(key)
        if children is None:
            children = (self._requests.labels(*key), self._latency.labels(route))
            self._children[key] = children
        children[0].inc()
        children[1].observe(seconds)
        if error is not None:
            self._errors.labels(error).inc()

    def called(self, observations: int, seconds: float) -> None:
        """Count one Triton call that was answered."""
        self._joined.observe(observations)
        self._inference.observe(seconds)

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

    def acted(self, observations: int) -> None:
        """Count observations that got an action."""
        self._observations.inc(observations)

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

    def exposition(self) -> bytes:
        """Write all series in Prometheus' text format."""
        if not self._shared:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def close(self) -> None:
        """Take this process's gauges out of the sum."""
        if self._shared:
            multiprocess.mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]
