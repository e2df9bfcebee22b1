"""Which instances, threads, calls, workers and size of a call are fastest on this machine.

`carlarl tune` uses it. Each candidate runs as a whole stack beside the one as it is set now, and
the two are loaded in turn, several rounds. The ratio of a pair counts, since a machine's speed
changes by the minute.
"""

import operator
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from perf.load import closed_loop, processes, target
from perf.load.generator import LoadError
from perf.load.target import Target

VARIED = ("workers", "calls", "instances", "threads", "batch")
"""Fields of a setting, in the order that they are tried in."""


@dataclass(frozen=True)
class Setting:
    """What can be set: three in the repository's configs, `calls` and `workers` as variables."""

    instances: int  # processes of each model that is tuned
    threads: int  # of one call in the runtime
    batch: int  # observations in one call at most
    calls: int
    workers: int

    @property
    def variables(self) -> dict[str, str]:
        """The gateway's share, as environment variables."""
        return {"WORKERS": str(self.workers), "CALLS_IN_FLIGHT": str(self.calls)}


@dataclass(frozen=True)
class Spread:
    """A figure of several rounds: its median and range."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Sum up `values`."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass
class Found:
    """What was measured so far."""

    default: Setting
    """As it is set now."""
    best: Setting
    """The fastest whose gain is above the noise."""
    noise: float = float("inf")
    """How far the ratio of two equal stacks was from 1."""
    per_s: float = 0.0
    gain: Spread | None = None
    """Ratio of `best` to `default`, measured again in pairs at the end."""
    ratios: dict[str, dict[int, Spread]] = field(default_factory=dict)
    """What was varied → its values → throughput over the default's; 0 where it failed."""
    interrupted: bool = False

    @property
    def changes_repository(self) -> bool:
        """Whether the best setting needs other configs."""
        of = operator.attrgetter("instances", "threads", "batch")
        return bool(of(self.best) != of(self.default))


@dataclass(frozen=True)
class Load:
    """How a stack is loaded: connections, observations a request, seconds, rounds."""

    connections: int
    rows: int
    seconds: float
    rounds: int


Progress = Callable[[str, int, int], None]
"""What is tried now, how many trials are done, and how many there are."""
Trial = Callable[[Setting], AbstractContextManager[Path]]
"""Return a model repository with a setting, until the block ends."""
MAX_BATCH = 256


def candidates(best: Setting, name: str, cores: int, at_once: int) -> list[Setting]:
    """Return the settings that differ from `best` in `name`.

    More instances get as many calls, which keep them busy. A size of a batch is tried only where
    the observations `at_once` fill it.
    """
    powers = [n for n in (1, 2, 4, 8, 16) if n <= cores]
    values = {"workers": powers, "calls": [1, 2, 4, 8], "instances": powers, "threads": powers}
    values["batch"] = [n for n in (16, 32, 64, 128, MAX_BATCH) if n < at_once]
    found = [replace(best, **{name: value}) for value in values[name]]
    if name == "instances":
        found = [replace(one, calls=max(one.calls, one.instances)) for one in found]
    return [one for one in found if getattr(one, name) != getattr(best, name)]


def climb(
    found: Found, cores: int, at_once: int, measure: Callable[[str, Setting], list[float]]
) -> None:
    """Vary one thing after the other, each on top of the best so far; writes into `found`.

    `measure` gets the name of what is varied, and gives the ratios of a setting's throughput to the
    default's, zeros where it failed. A setting is better where the median of its ratios is higher
    by more than the noise.
    """
    at_best = [1.0]
    for name in VARIED:
        start = found.best
        tried = {getattr(start, name): Spread.of(at_best)}
        for one in candidates(start, name, cores, at_once):
            value = getattr(one, name)
            ratios = measure(f"{name} {value}", one)
            tried[value] = Spread.of(ratios)
            found.ratios[name] = dict(sorted(tried.items()))
            if statistics.median(ratios) > statistics.median(at_best) * (1 + found.noise):
                found.best, at_best, found.gain = one, ratios, Spread.of(ratios)


def search(trial: Trial, default: Setting, cores: int, load: Load, progress: Progress) -> Found:
    """Try one thing after the other, each on top of the best so far; Ctrl-C ends it early.

    Raises LoadError where the setting as it is now fails.
    """
    found = Found(default, default)
    at_once = load.connections * load.rows
    total = 2 + sum(len(candidates(default, name, cores, at_once)) for name in VARIED)
    done = iter(range(2 * total))
    try:
        with _stack(trial, default) as base:
            progress("the setting against itself", next(done), total)
            with _stack(trial, default) as other:
                pairs = [(_rate(base, load), _rate(other, load)) for _ in range(2 * load.rounds)]
            found.per_s = statistics.median(first for first, _ in pairs)
            found.noise = max(abs(second / first - 1) for first, second in pairs)

            def measure(what: str, setting: Setting, rounds: int = load.rounds) -> list[float]:
                progress(what, next(done), total)
                try:
                    with _stack(trial, setting) as other:
                        return [_rate(other, load) / _rate(base, load) for _ in range(rounds)]
                except LoadError:
                    return [0.0] * rounds  # requests fail with this setting, or nothing starts

            climb(found, cores, at_once, measure)
            if found.best != default:
                found.gain = Spread.of(measure("the best again", found.best, 2 * load.rounds))
                if found.gain.low <= 1 or found.gain.median <= 1 + found.noise:
                    found.best, found.gain = default, None
        progress("done", total, total)
    except KeyboardInterrupt:
        found.interrupted = True
    return found


def _rate(stack: Target, load: Load) -> float:
    """Return the requests/s. Raises LoadError where a request failed."""
    found = closed_loop.run(stack, load.connections, load.seconds, load.rows)
    if found.errors:
        raise LoadError(f"{stack.url}: requests failed: {found.errors}")
    return found.requests_per_s


@contextmanager
def _stack(trial: Trial, setting: Setting) -> Iterator[Target]:
    with trial(setting) as place:
        variables = processes.ALONE | {"MODEL_REPOSITORY": str(place)}
        with processes.gateway(**variables, **setting.variables) as served:
            found = target.gateway(served.url)
            _rate(found, Load(8, 1, 1, 1))  # warm
            yield found
