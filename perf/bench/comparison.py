"""Two benchmarks side by side: which cases became worse."""

import statistics
from dataclasses import dataclass

from perf.bench.results import Results
from perf.bench.tables import Figure, p50, p99, rate, short
from perf.load.measurement import Measurement

FIGURES: dict[str, tuple[Figure, int]] = {
    "p50 ms": (p50, 1),
    "p99 ms": (p99, 10),
    "requests/s": (rate, 1),
}
"""What is compared, and by how many times the threshold it may be off: of one code on one machine
p99 differed by half from one minute to another."""


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

    def __str__(self) -> str:
        """Say it in a line."""
        percent = (self.now / self.before - 1) * 100 if self.before else 0.0
        return (
            f"{self.case}: {self.figure} {short(self.before)} → {short(self.now)} "
            f"({percent:+.0f} %; repeats differ by {short(self.spread)})"
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


def compare(before: Results, now: Results, threshold: float) -> Comparison:
    """Compare the medians of the repeats of each case.

    A figure is worse where it is off by more than `threshold` percent (p99: ten times that), and by
    more than the repeats of one side differ among themselves.
    """
    cases: dict[tuple[object, ...], tuple[list[Measurement], list[Measurement]]] = {}
    for side, results in enumerate((before, now)):
        for one in results.measurements:
            cases.setdefault(one.case, ([], []))[side].append(one)
    both = [case for case in cases.values() if all(case)]
    changes = [_change(name, *case, threshold) for case in both for name in FIGURES]
    return Comparison(changes, [old[0].name for old, new in cases.values() if not new])


def _change(name: str, old: list[Measurement], new: list[Measurement], threshold: float) -> Change:
    figure, times = FIGURES[name]
    sides = [[figure(one) for one in side] for side in (old, new)]
    before, now = map(statistics.median, sides)
    spread = max(max(side) - min(side) for side in sides)
    loss = before - now if figure is rate else now - before
    worse = loss > max(before * threshold * times / 100, spread)
    return Change(new[0].name, name, before, now, spread, worse)
