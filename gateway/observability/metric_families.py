"""Counts in plain numbers, which are handed to Prometheus' series about once a second.

prometheus-client's own counting takes a lock each time, and a mapped file where there are several
workers: too much for what is counted with every request.
"""

from bisect import bisect_left

from prometheus_client import Counter, Histogram


class Count:
    """What a counter is to be raised by."""

    __slots__ = ("_counter", "number")

    def __init__(self, counter: Counter) -> None:
        """Start at 0; whoever counts adds to `number`."""
        self._counter = counter
        self.number = 0

    def flush(self) -> None:
        """Raise the counter, and start again."""
        if self.number:
            self._counter.inc(self.number)
            self.number = 0


class Distribution:
    """What a histogram is to take in."""

    __slots__ = ("_bounds", "_counts", "_histogram", "_sum")

    def __init__(self, histogram: Histogram) -> None:
        """Start empty, with the bounds of `histogram`."""
        self._histogram = histogram
        self._bounds = histogram._upper_bounds  # the last is infinite
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value; it must be a number."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def flush(self) -> None:
        """Hand over what was counted, and start again."""
        for index, count in enumerate(self._counts):
            if count:
                self._histogram._buckets[index].inc(count)
                self._counts[index] = 0
        self._histogram._sum.inc(self._sum)
        self._sum = 0.0
