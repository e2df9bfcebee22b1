"""Memory over a long run under load: `python -m perf.studies.memory`.

What gateway and Triton hold is read between short loads, of which no two requests are alike.
Growth is the Theil–Sen slope, the median of the slopes between all pairs of samples, with Sen's
interval of 95 % (Kendall's variance): a few outliers do not move them.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import click
import numpy as np

from perf.bench import charts, drawing, machine
from perf.bench.results import MemorySample, Results
from perf.load import closed_loop, processes
from perf.load.target import Target
from perf.studies import resident

PARTS = ("gateway", "triton", "shm")
CALLERS = 32
WARM = 50_000
Z_95 = 1.959964
NOTICEABLE_MB = 1.0
"""Growth over a run below which nothing is said of it: pages and arenas come and go."""

_TITLES = {"gateway": "gateway", "triton": "Triton", "shm": "/dev/shm"}
_ADVICE = {
    "gateway": "Look for what keeps requests: run it with `python -X tracemalloc`, and look in "
    "/metrics for labels that never end. Until it is found, restart the gateway from time to time.",
    "triton": "See which model holds it: serve one version and one format at a time, and measure "
    "again. A response cache grows up to CACHE_BYTES and then stops.",
    "shm": "Triton's Python backend keeps what its largest batches needed, and gives nothing back: "
    "give the container a larger `shm_size`, or send smaller batches.",
}


@dataclass(frozen=True)
class Slope:
    """Growth in MB per 1000 requests, with its interval of 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """Whether a part grows."""

    part: str
    held_mb: float
    """The median of the last quarter."""
    growth: Slope
    kind: Literal["steady", "grows"]
    text: str


def theil_sen(x: Sequence[float], y: Sequence[float]) -> Slope:
    """Give the median slope of y over x and its interval; raises ValueError below 3 values of x."""
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
    whole = theil_sen(thousands, held)
    half = len(samples) // 2
    late = theil_sen(thousands[half:], held[half:])
    over = thousands[-1] - thousands[0]
    now = float(np.median(held[-max(1, len(held) // 4) :]))
    title = _TITLES[part]
    noticeable = whole.low > 0 and whole.value * over >= NOTICEABLE_MB
    if (
        noticeable
        and late.low > 0
        and late.value * (thousands[-1] - thousands[half]) >= (NOTICEABLE_MB)
    ):
        text = (
            f"{title} grows by {late.value:.3g} MB per 1000 requests "
            f"({late.low:.3g} to {late.high:.3g}). {_ADVICE[part]}"
        )
        return Verdict(part, now, late, "grows", text)
    if noticeable:
        text = (
            f"{title} is steady at {now:.0f} MB: it grew by {whole.value * over:.1f} MB at first "
            f"and not in the second half. Give it that much room."
        )
        return Verdict(part, now, late, "steady", text)
    most = max(0.0, whole.high)
    text = f"{title} is steady at {now:.0f} MB: at most {most:.2g} MB per 1000 requests (95 %)."
    if most * 1000 > now:
        text += " Such a leak would double it in a million requests: run longer to exclude it."
    return Verdict(part, now, whole, "steady", text)


def watch(
    url: str,
    pid: int,
    requests: int,
    warm: int = WARM,
    every_s: float = 1.0,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[MemorySample]:
    """Load the gateway at `url`, served by process `pid`, for `requests` after `warm` others.

    Gives a sample after each `every_s` seconds of load. Raises closed_loop.LoadError where the load
    can't be made or a request fails.
    """
    began, sent = time.monotonic(), 0
    while sent < warm + requests:
        load = closed_loop.run(Target(url), CALLERS, every_s, vary=closed_loop.have_wrk())
        if load.failed:
            raise closed_loop.LoadError(f"{url}: requests failed: {load.errors}")
        sent += load.requests
        if sent >= warm:
            one = resident.sample(pid, began, sent)
            say(
                f"{one.requests:,} requests: gateway {one.gateway:.1f} MB, "
                f"Triton {one.triton:.1f} MB, /dev/shm {one.shm:.1f} MB"
            )
            yield one


def measure(
    requests: int,
    warm: int = WARM,
    say: Callable[[str], None] = lambda line: None,
    **variables: str,
) -> Results:
    """Run `carlarl serve` with these settings, and watch it; Ctrl-C keeps what was measured."""
    found = Results(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=f"python -m perf.studies.memory --requests {requests} --warm {warm}",
        machine=machine.facts(),
        settings=processes.settings() | variables,
    )
    with processes.gateway(**processes.ALONE, **variables) as (url, pid):
        try:
            for one in watch(url, pid, requests, warm, say=say):
                found.memory.append(one)
        except KeyboardInterrupt:
            found.interrupted = True
    return found


def keep(results: Results, folder: Path) -> list[Verdict]:
    """Write the samples and their picture into a folder; raises ValueError for too few samples."""
    results.save(folder / "memory.json")
    verdicts = [judge(results.memory, part) for part in PARTS]
    drawing.save(charts.memory(results.memory), folder / "memory.png")
    return verdicts


@click.command()
@click.option("--requests", default=500_000, show_default=True, type=click.IntRange(1))
@click.option("--warm", default=WARM, show_default=True, type=click.IntRange(0))
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/memory"),
    show_default=True,
    help="Folder of memory.json and memory.png.",
)
def main(requests: int, warm: int, output: Path) -> None:
    """Measure memory over a long run; ends with status 1 where something grows."""
    try:
        results = measure(requests, warm, say=lambda line: click.echo(line, err=True))
        verdicts = keep(results, output)
    except (ValueError, closed_loop.LoadError, processes.StartError) as error:
        raise click.ClickException(str(error)) from None
    for verdict in verdicts:
        click.echo(verdict.text)
    sys.exit(any(verdict.kind == "grows" for verdict in verdicts))


if __name__ == "__main__":
    main()
