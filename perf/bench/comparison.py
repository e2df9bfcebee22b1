"""Two benchmarks side by side: which cases became worse."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from perf.bench.results import Measurement, Results

FIGURES = {"p50 ms": 1, "p99 ms": 10, "requests/s": 1}
"""What is compared, and by how many times the threshold it may be off: of one code on one machine
p99 was seen to differ by half from one minute to another."""


@dataclass(frozen=True)
class Change:
    """One figure of one case, before and now: medians of the repeats."""

    case: str
    figure: str
    before: float
    now: float
    spread: float
    """The larger range of the repeats, of before or of now."""
    worse: bool

    @property
    def percent(self) -> float:
        """How much more it is now."""
        return (self.now / self.before - 1) * 100 if self.before else 0.0

    def __str__(self) -> str:
        """Say it in a line."""
        return (
            f"{self.case}: {self.figure} {short(self.before)} → {short(self.now)} "
            f"({self.percent:+.0f} %; repeats differ by {short(self.spread)})"
        )


@dataclass(frozen=True)
class Comparison:
    """All figures of the cases that both have."""

    changes: list[Change]
    missing: list[str]
    """Cases that were measured before and not now."""

    @property
    def worse(self) -> list[Change]:
        """What became worse."""
        return [change for change in self.changes if change.worse]


def by_case(results: Results) -> dict[tuple[object, ...], list[Measurement]]:
    """Give the repeats of each case, in the order in which cases were first measured."""
    cases: dict[tuple[object, ...], list[Measurement]] = {}
    for measurement in results.measurements:
        cases.setdefault(measurement.case, []).append(measurement)
    return cases


def compare(before: Results, now: Results, threshold: float) -> Comparison:
    """Compare the medians of the repeats of each case.

    A figure is worse where it is off by more than `threshold` percent (p99: ten times that), and by
    more than the repeats of one side differ among themselves.
    """
    old, new = by_case(before), by_case(now)
    changes = [
        _change(new[case][0].name, figure, old[case], new[case], threshold)
        for case in new
        if case in old
        for figure in FIGURES
    ]
    return Comparison(changes, [old[case][0].name for case in old if case not in new])


def short(value: float) -> str:
    """Write a figure with three digits, or with all before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _change(
    case: str, figure: str, old: list[Measurement], new: list[Measurement], threshold: float
) -> Change:
    sides = [[_value(one, figure) for one in side] for side in (old, new)]
    before, now = map(statistics.median, sides)
    spread = max(max(side) - min(side) for side in sides)
    loss = before - now if figure == "requests/s" else now - before
    worse = loss > max(before * threshold * FIGURES[figure] / 100, spread)
    return Change(case, figure, before, now, spread, worse)


def _value(measurement: Measurement, figure: str) -> float:
    latency = measurement.latency_ms
    return {
        "p50 ms": latency.p50,
        "p99 ms": latency.p99,
        "requests/s": measurement.requests_per_s,
    }[figure]
