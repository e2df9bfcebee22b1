"""One run of one load: its latencies as a histogram, its rate, and what failed."""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec
from hdrh.histogram import HdrHistogram

HIGHEST_US = 60_000_000
SIGNIFICANT_DIGITS = 3

Layer = Literal["in-process", "triton-http", "triton-grpc", "gateway"]


class Latency(msgspec.Struct, frozen=True):
    """Latencies in milliseconds."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    p99_9: float
    max: float


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one load against one target."""

    layer: Layer
    system: str = "carlarl"
    """`carlarl`, or a peer's name."""
    target: str
    """What was asked: a Triton model, or a route."""
    version: str
    format: str
    loop: Literal["closed", "open"]
    """Closed: each caller waits for its answer before it asks again, so a stall hides the requests
    that it held up. Open: requests are due at a fixed rate, and latency counts from then."""
    tool: str
    concurrency: int
    batch_size: int
    """Observations in a request."""
    asked_per_s: float | None = None
    """Requests due in a second, of an open loop."""
    sent_per_s: float | None = None
    """Requests that an open loop sent in a second. Where it is less than `asked_per_s`, the server
    could not keep up, and latencies grow with the length of the run."""
    queued: int = 0
    """Requests of an open loop that found all connections waiting for answers."""
    seconds: float
    requests: int
    errors: dict[str, int] = {}
    """Failed requests by status or kind. No latency has them, but `wrk`'s, which count every
    status."""
    requests_per_s: float
    latency_ms: Latency
    histogram: list[tuple[int, int]]
    """Pairs of latency in microseconds and count of requests; empty where the tool has none."""

    @property
    def failed(self) -> int:
        """Count failed requests, without `wrk`'s timeouts: these were answered after 2 s."""
        return sum(count for kind, count in self.errors.items() if kind != "timeout")

    @property
    def case(self) -> tuple[object, ...]:
        """What two measurements share that may be compared."""
        load = (self.loop, self.tool, self.concurrency, self.batch_size, self.asked_per_s)
        return (self.layer, self.system, self.target, self.version, self.format, *load)

    @property
    def name(self) -> str:
        """The case, for people."""
        load = f"{self.concurrency} callers" if self.loop == "closed" else f"{self.asked_per_s:g}/s"
        who = "" if self.system == "carlarl" else f"{self.system} "
        what = f"{self.layer}: {who}{self.target} {self.version} {self.format}"
        return f"{what}, batch {self.batch_size}, {load} ({self.tool})"


def histogram(counts: Iterable[tuple[int, int]]) -> HdrHistogram:
    """Make a histogram of pairs of microseconds and count."""
    made = HdrHistogram(1, HIGHEST_US, SIGNIFICANT_DIGITS)
    for value, count in counts:
        made.record_value(min(max(value, 1), HIGHEST_US), count)
    return made


def measured(
    counts: Iterable[tuple[int, int]], requests: int, seconds: float, **facts: Any
) -> Measurement:
    """Make a measurement of pairs of microseconds and count; `facts` are its other fields."""
    held = histogram(counts)
    names = {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "p99_9": 99.9}
    percentiles = {k: held.get_value_at_percentile(at) / 1e3 for k, at in names.items()}
    return Measurement(
        seconds=round(seconds, 3),
        requests=requests,
        requests_per_s=round(requests / seconds, 2),
        latency_ms=Latency(
            mean=round(held.get_mean_value() / 1e3, 4),
            max=held.get_max_value() / 1e3,
            **percentiles,
        ),
        histogram=[
            (step.value_iterated_to, step.count_added_in_this_iter_step)
            for step in held.get_recorded_iterator()
        ],
        **facts,
    )
