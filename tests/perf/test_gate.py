"""The gate's limits, on made-up measurements; `make test-performance` asks the real thing."""

from __future__ import annotations

from perf.bench import gate
from perf.load.measurement import Measurement
from tests.perf.made import made


def _failed(ours: Measurement) -> set[str]:
    """The limits that do not hold where the plain alternative takes 0.25 ms and answers 5000/s."""
    pairs = {limit.case: [(ours, made(250, 5000))] * 3 for limit in gate.LIMITS}
    return {limit.what for limit in gate.LIMITS if not limit.holds(limit.ratio(pairs))}


def test_as_measured_it_passes() -> None:
    assert not _failed(made(430, 20_000))


def test_two_milliseconds_more_fail() -> None:
    assert _failed(made(2430, 20_000)) == {"p50 ms, 1 connection"}


def test_half_the_throughput_fails() -> None:
    assert "requests/s, 32 connections" in _failed(made(430, 10_000))


def test_the_median_of_the_pairs_counts() -> None:
    (first, *_) = gate.LIMITS
    plain, good, bad = made(250, 5000), made(250, 20_000), made(250, 100)
    assert first.holds(first.ratio({first.case: [(good, plain), (bad, plain), (good, plain)]}))
    assert not first.holds(first.ratio({first.case: [(bad, plain), (good, plain), (bad, plain)]}))
