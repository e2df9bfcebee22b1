"""Metrics in plain numbers, which workers can add up; prometheus-client only writes them.

Its own counting takes a lock each time: too much for what is counted with every request.
"""

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from itertools import accumulate
from math import inf
from typing import Any, Self

from prometheus_client import core

BUCKETS_S = (
    0.00025, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075,
    0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
)  # fmt: skip
Numbers = list[float]
State = dict[str, dict[tuple[str, ...], Numbers]]
"""What a process has of each series, by the metric's name and the values of its labels."""
Merge = Callable[[Iterable[Numbers]], Numbers]


def added(workers: Iterable[Numbers]) -> Numbers:
    """Return the sums of the workers' numbers."""
    return [sum(numbers) for numbers in zip(*workers, strict=True)]


def latest(workers: Iterable[Numbers]) -> Numbers:
    """Return the value of a gauge that was set last."""
    return max(workers, key=lambda numbers: numbers[1])


class Family:
    """One metric, with `size` numbers for each series; `merge` joins those of the workers.

    A metric with labels has a series for each set of values: `labels` returns it.
    """

    __slots__ = ("_labels", "_merge", "_text", "name", "numbers", "series")
    kind: type[core.CounterMetricFamily | core.GaugeMetricFamily | core.HistogramMetricFamily]

    def __init__(
        self, name: str, text: str, *labels: str, merge: Merge = added, size: int = 2
    ) -> None:
        self.name, self._text, self._labels, self._merge = name, text, labels, merge
        self.series: dict[tuple[str, ...], Numbers] = {}
        self.numbers: Numbers = [0] * size
        if not labels:
            self.series[()] = self.numbers

    def labels(self, *values: str) -> Self:
        """Return the series with these values; a new one begins at 0."""
        one = copy(self)
        one.numbers = self.series.setdefault(values, [0] * len(self.numbers))
        return one

    def collect(self, workers: Sequence[State], *, shared: bool) -> core.Metric:
        """Merge what the workers have; `shared` is whether there may be several."""
        found = defaultdict[tuple[str, ...], list[Numbers]](list)
        for worker in workers:
            for values, numbers in worker.get(self.name, {}).items():
                found[values].append(numbers)
        family = self.kind(self.name, self._text, labels=self._labels)
        for values, each in found.items():
            self._add(family, values, self._merge(each), shared=shared)
        return family

    def _add(self, to: Any, values: tuple[str, ...], numbers: Numbers, *, shared: bool) -> None:
        to.add_metric(values, numbers[0])


class Counter(Family):
    """A number that rises."""

    kind = core.CounterMetricFamily

    def inc(self, number: float = 1) -> None:
        """Raise it."""
        self.numbers[0] += number


class Gauge(Family):
    """A number, and when it was set."""

    kind = core.GaugeMetricFamily

    def set(self, number: float) -> None:
        """Set the value."""
        self.numbers[:] = float(number), time.time()

    def add(self, number: float) -> None:
        """Raise the value, or lower it."""
        self.set(self.numbers[0] + number)


class Histogram(Family):
    """A sum of values, and how many lie in each bucket; the last bucket has no bound."""

    __slots__ = ("_bounds",)
    kind = core.HistogramMetricFamily

    def __init__(
        self, name: str, text: str, *labels: str, bounds: Sequence[float] = BUCKETS_S
    ) -> None:
        super().__init__(name, text, *labels, size=len(bounds) + 2)
        self._bounds = (-inf, *bounds)  # so that the first number is free for the sum

    def observe(self, value: float) -> None:
        """Count one value; it must be a number."""
        numbers = self.numbers
        numbers[bisect_left(self._bounds, value)] += 1
        numbers[0] += value

    def _add(self, to: Any, values: tuple[str, ...], numbers: Numbers, *, shared: bool) -> None:
        bounds = [*map(str, map(float, self._bounds[1:])), "+Inf"]
        buckets = list(zip(bounds, accumulate(numbers[1:]), strict=True))
        to.add_metric(values, buckets, numbers[0])
        if self._bounds[1] < 0:  # then add_metric leaves these out
            more = {"_count": buckets[-1][1]} | ({"_sum": numbers[0]} if shared else {})
            labels = dict(zip(self._labels, values, strict=True))
            to.samples += [core.Sample(self.name + end, labels, more[end]) for end in more]
