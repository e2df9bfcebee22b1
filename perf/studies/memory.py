"""Memory over a long run under load: `carlarl bench memory`.

What gateway and Triton hold is read between short loads, of which no two requests are alike.
Growth is the Theil–Sen slope, the median of the slopes between all pairs of samples, with Sen's
interval of 95 % (Kendall's variance): a few outliers do not move them.
"""

import math
import time
from collections.abc import Iterator, Sequence

import numpy as np

from perf.bench.command import Say
from perf.bench.results import MemorySample, Results, Slope, Verdict
from perf.load import closed_loop, processes
from perf.load.generator import LoadError
from perf.load.target import Target
from perf.studies import usage

CALLERS = 32
WARM = 50_000
Z_95 = 1.959964
NOTICEABLE_MB = 1.0
"""Less growth than this over a run counts as none: pages and arenas come and go."""

PARTS = {"gateway": "the gateway", "triton": "Triton", "shm": "/dev/shm"}
"""Part → its name in a sentence."""


def theil_sen(x: Sequence[float], y: Sequence[float]) -> Slope:
    """Return the median slope of y over x and its interval. Raise ValueError for fewer than 3."""
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    one, other = np.triu_indices(len(xs), 1)
    apart = xs[other] != xs[one]
    if len(np.unique(xs)) < 3:
        raise ValueError("a slope needs samples at three different numbers of requests")
    slopes = np.sort((ys[other] - ys[one])[apart] / (xs[other] - xs[one])[apart])
    n = len(xs)
    reach = Z_95 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low = max(0, math.floor((len(slopes) - reach) / 2))
    high = min(len(slopes) - 1, math.ceil((len(slopes) + reach) / 2))
    return Slope(float(np.median(slopes)), float(slopes[low]), float(slopes[high]))


def judge(samples: Sequence[MemorySample], part: str) -> Verdict:
    """Say whether a part grows: over the whole run, noticeably, and still in its second half.

    Raises ValueError for fewer than 6 samples.
    """
    if len(samples) < 6:
        raise ValueError(f"{len(samples)} samples say nothing about growth; let it run longer")
    thousands = [sample.requests / 1000 for sample in samples]
    held = [float(getattr(sample, part)) for sample in samples]
    half = len(samples) // 2

    def growth(first: int) -> tuple[Slope, float]:
        """Return the slope from a sample on, and the MB; 0 MB where they may be noise."""
        slope = theil_sen(thousands[first:], held[first:])
        grown = slope.value * (thousands[-1] - thousands[first])
        return slope, grown if slope.low > 0 and grown >= NOTICEABLE_MB else 0.0

    (whole, grown), (late, lately) = growth(0), growth(half)
    now = float(np.median(held[-max(1, len(held) // 4) :]))
    if grown and lately:
        rate = f"{late.value:.3g} MB per 1000 requests ({late.low:.3g} to {late.high:.3g})"
        text = f"{PARTS[part]} grows by {rate}: see perf/README.md, Memory"
        return Verdict(part, now, late, "grows", text)
    slope = late if grown else whole
    text = f"{PARTS[part]} is steady at {now:.0f} MB: "
    text += f"it grew by {grown:.1f} MB at first, and later " if grown else ""
    text += f"at most {max(0.0, slope.high):.2g} MB per 1000 requests (95 %)"
    return Verdict(part, now, slope, "steady", text)


def watch(
    url: str, pid: int, requests: int, warm: int = WARM, say: Say = lambda line: None
) -> Iterator[MemorySample]:
    """Load the gateway at `url`, served by process `pid`, for `requests` after `warm` others.

    Gives a sample after each second of load. Raises LoadError where the load can't be made or a
    request fails.
    """
    began, sent = time.monotonic(), 0
    while sent < warm + requests:
        load = closed_loop.run(Target(url), CALLERS, 1, vary=closed_loop.have_wrk())
        if load.failed:
            raise LoadError(f"{url}: requests failed: {load.errors}")
        sent += load.requests
        if sent >= warm:
            one = usage.sample(pid, began, sent)
            say(
                f"{one.requests:,} requests: gateway {one.gateway:.1f} MB, "
                f"Triton {one.triton:.1f} MB, /dev/shm {one.shm:.1f} MB"
            )
            yield one


def measure(requests: int, say: Say) -> Results:
    """Run `carlarl serve` and watch it; Ctrl-C keeps what was measured.

    Raises LoadError, also for too few samples.
    """
    found = Results.of(f"carlarl bench memory --requests {requests}", **processes.ALONE)
    try:
        with processes.gateway(**processes.ALONE) as served:
            for one in watch(served.url, served.pid, requests, say=say):
                found.memory.append(one)
    except KeyboardInterrupt:
        found.interrupted = True
    try:
        found.verdicts = [judge(found.memory, part) for part in PARTS]
    except ValueError as error:
        if not found.interrupted:
            raise LoadError(str(error)) from None
    return found
