"""What a benchmark found: the schema of its JSON, histograms included.

A results file is one JSON object, `Results`; the fields below are its fields. `python -m
perf.bench.results` prints the JSON schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from hdrh.histogram import HdrHistogram

from perf.bench.machine import Machine

SCHEMA = 1
HIGHEST_US = 60_000_000
SIGNIFICANT_DIGITS = 3

Layer = Literal["in-process", "triton-http", "triton-grpc", "gateway"]


class ResultsError(Exception):
    """A results file can't be read; the text says why."""


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
    """One run of one load against one thing."""

    layer: Layer
    system: str = "carlarl"
    """Which system: `carlarl`, or a peer's name."""
    target: str
    """What was asked: a Triton model, or a route."""
    version: str
    format: str
    loop: Literal["closed", "open"]
    """Closed: each caller waits for its answer before it asks again, so that a stall hides the
    requests it held up. Open: requests are due at a fixed rate, and latency counts from then."""
    tool: str
    concurrency: int
    batch_size: int
    """Observations in a request."""
    asked_per_s: float | None = None
    """Requests due a second, of an open loop."""
    sent_per_s: float | None = None
    """Requests that an open loop did send a second. Where it is less than `asked_per_s`, what was
    asked for was more than could be taken, and latencies grow with the length of the run."""
    queued: int = 0
    """Requests of an open loop that found all connections waiting for answers."""
    seconds: float
    requests: int
    errors: dict[str, int] = {}
    """Failed requests by status or kind; they are in no latency, but for `wrk`'s by status."""
    requests_per_s: float
    latency_ms: Latency
    histogram: list[tuple[int, int]]
    """Latency in microseconds, and how many requests took it; empty where the tool tells none."""

    @property
    def failed(self) -> int:
        """Failed requests, without those that `wrk` calls timeouts: answers after 2 s."""
        return sum(count for kind, count in self.errors.items() if kind != "timeout")

    @property
    def observations_per_s(self) -> float:
        """Observations answered a second."""
        return self.requests_per_s * self.batch_size

    @property
    def case(self) -> tuple[object, ...]:
        """What two measurements have in common that may be compared."""
        load = (self.loop, self.tool, self.concurrency, self.batch_size, self.asked_per_s)
        return (self.layer, self.system, self.target, self.version, self.format, *load)

    @property
    def name(self) -> str:
        """Name the case for people."""
        load = f"{self.concurrency} callers" if self.loop == "closed" else f"{self.asked_per_s:g}/s"
        who = "" if self.system == "carlarl" else f"{self.system} "
        what = f"{self.layer}: {who}{self.target} {self.version} {self.format}"
        return f"{what}, batch {self.batch_size}, {load} ({self.tool})"


class MemorySample(msgspec.Struct, frozen=True):
    """Memory after so many requests, in MB (10^6 bytes)."""

    seconds: float
    requests: int
    gateway: float
    """What the gateway's processes hold: their proportional set sizes, but for mapped files."""
    triton: float
    """What Triton and its Python processes hold, likewise."""
    shm: float
    """What their segments in /dev/shm hold; it is in the two above, too."""


class Results(msgspec.Struct, kw_only=True):
    """One benchmark, with all that its figures depend on."""

    schema: int = SCHEMA
    started: str
    """ISO 8601, UTC."""
    command: str
    machine: Machine
    settings: dict[str, str]
    """The environment variables of the stack that was measured, and their values."""
    measurements: list[Measurement] = []
    interrupted: bool = False
    """Whether it was ended before its last measurement."""
    left_out: list[str] = []
    """What was not measured, and why, a sentence each."""
    memory: list[MemorySample] = []
    """A long run's memory."""

    def save(self, path: Path) -> None:
        """Write the JSON, in one line: it is mostly histograms."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.encode(self) + b"\n")


def load(path: Path) -> Results:
    """Read a results file; raises ResultsError."""
    try:
        results = msgspec.json.decode(path.read_bytes(), type=Results)
    except OSError as error:
        raise ResultsError(f"{path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise ResultsError(f"{path}: not a results file: {error}") from error
    if results.schema != SCHEMA:
        raise ResultsError(f"{path}: schema {results.schema}; this reads {SCHEMA}")
    return results


def merged(parts: Sequence[Results]) -> Results:
    """Put benchmarks of one machine together, each measured by its own command."""
    return msgspec.structs.replace(
        parts[0],
        command="; ".join(part.command for part in parts),
        settings={name: value for part in parts for name, value in part.settings.items()},
        measurements=[one for part in parts for one in part.measurements],
        interrupted=any(part.interrupted for part in parts),
        left_out=[line for part in parts for line in part.left_out],
        memory=next((part.memory for part in parts if part.memory), []),
    )


def new_histogram() -> HdrHistogram:
    """Make an empty histogram of microseconds."""
    return HdrHistogram(1, HIGHEST_US, SIGNIFICANT_DIGITS)


def pairs(histogram: HdrHistogram) -> list[tuple[int, int]]:
    """Give what a histogram holds as `Measurement.histogram`."""
    return [
        (step.value_iterated_to, step.count_added_in_this_iter_step)
        for step in histogram.get_recorded_iterator()
    ]


def histogram(counts: Iterable[tuple[int, int]]) -> HdrHistogram:
    """Make a histogram of (microseconds, count) pairs."""
    made = new_histogram()
    for value, count in counts:
        made.record_value(min(max(value, 1), HIGHEST_US), count)
    return made


def latency(histogram: HdrHistogram) -> Latency:
    """Give mean and percentiles of a histogram."""

    def at(percent: float) -> float:
        value: int = histogram.get_value_at_percentile(percent)
        return value / 1e3

    return Latency(
        mean=round(histogram.get_mean_value() / 1e3, 4),
        p50=at(50),
        p90=at(90),
        p95=at(95),
        p99=at(99),
        p99_9=at(99.9),
        max=histogram.get_max_value() / 1e3,
    )


def measured(
    counts: Iterable[tuple[int, int]], requests: int, seconds: float, **facts: Any
) -> Measurement:
    """Make a measurement of (microseconds, count) pairs; `facts` are its other fields."""
    held = histogram(counts)
    return Measurement(
        seconds=round(seconds, 3),
        requests=requests,
        requests_per_s=round(requests / seconds, 2),
        latency_ms=latency(held),
        histogram=pairs(held),
        **facts,
    )


if __name__ == "__main__":
    print(json.dumps(msgspec.json.schema(Results), indent=2))
