"""What instances, threads, calls, their size and workers give on this machine, by trying them.

Each candidate runs as a whole stack beside the one as it is set now, and the two are loaded in
turn, several rounds: what counts is the ratio of a pair, since a machine's speed changes by the
minute.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from converters.repository import configs, placement, repository
from perf import closed_loop, processes, target
from perf.target import Target

CONCURRENCY = (1, 2, 4, 8, 16, 32, 64)
ROWS = (1, 4, 16, 64, 256)
VARIED = ("workers", "calls", "instances", "threads", "batch")
"""Fields of a setting, in the order that they are tried in."""
KNEE = 0.95
"""Share of the best throughput that is reached at the knee."""


@dataclass(frozen=True)
class Setting:
    """What can be set: the first three in the repository's configs, the others in the environment.

    Attributes:
        instances: processes of each model that is tuned.
        threads: threads of one call in the runtime.
        batch: observations that travel in one call at most.
        calls: CALLS_IN_FLIGHT.
        workers: WORKERS.
    """

    instances: int
    threads: int
    batch: int
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
    def of(cls, values: Sequence[float], scale: float = 1.0) -> Spread:
        """Sum up `values`, each `scale` times."""
        return cls(statistics.median(values) * scale, min(values) * scale, max(values) * scale)


@dataclass(frozen=True)
class Point:
    """What a value gave: requests/s, where observations in a request vary observations/s."""

    value: int
    per_s: Spread


@dataclass
class Found:
    """What was measured so far.

    Attributes:
        default: as it is set now.
        noise: how far the ratio of two equal stacks was from 1; a gain must be more.
        best: the fastest setting whose gain is above the noise.
        gain: ratio of `best` to `default`; of pairs of their own once all is tried.
        curves: for each thing that was varied, its points; of settings they are that many times
            the default's median, so that they can be compared.
    """

    default: Setting
    best: Setting
    noise: float = float("inf")
    per_s: float = 0.0
    gain: Spread | None = None
    curves: dict[str, list[Point]] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def changes_repository(self) -> bool:
        """Whether the best setting needs other configs."""
        before, now = self.default, self.best
        return replace(before, calls=now.calls, workers=now.workers) != now


@dataclass(frozen=True)
class Load:
    """How a stack is loaded: connections, observations a request, seconds, rounds."""

    connections: int
    rows: int
    seconds: float
    rounds: int


Progress = Callable[[str, int, int], None]
"""What is tried now, how many trials are done, and how many there are."""


def tuned_models(root: Path) -> list[str]:
    """Name the models that the gateway's calls of the active version run in."""
    version = repository.active_version(root)
    if version is None:
        raise repository.RepositoryError(
            f"{root}: no active version; `carlarl export` makes one active"
        )
    fused = configs.ensemble_name(version, configs.FUSED)
    if (root / fused).is_dir():
        return [fused]
    steps = repository.read_config(root, configs.ensemble_name(version)).ensemble_scheduling.step
    return [step.model_name for step in steps]


def current(root: Path, calls: int, workers: int) -> Setting:
    """Give the setting of the repository, with that of the gateway."""
    config = repository.read_config(root, tuned_models(root)[-1])
    batch = repository.read_config(root, configs.ALIAS).max_batch_size
    return Setting(config.instance_group[0].count, configs.threads(config), batch, calls, workers)


def changed(root: Path, setting: Setting) -> dict[str, Any]:
    """Give the configs that differ for `setting`, by model."""
    made = {}
    for model in tuned_models(root):
        config = made[model] = repository.read_config(root, model)
        configs.tune(config, setting.instances, setting.threads)
    # Gateways go by the ensemble's size of a batch, whichever model they call.
    for model in (configs.ALIAS, configs.ensemble_name(str(repository.active_version(root)))):
        config = repository.read_config(root, model)
        if config.max_batch_size != setting.batch:
            config.max_batch_size = setting.batch
            made[model] = config
    return made


def write(root: Path, setting: Setting) -> list[str]:
    """Put `setting`'s share into the repository, all or nothing; gives the models it changed."""
    made = changed(root, setting)
    with repository.transaction(root) as tree:
        for model, config in made.items():
            repository.write(tree / model / "config.pbtxt", configs.text(config).encode())
    return list(made)


def search(root: Path, default: Setting, cores: int, load: Load, progress: Progress) -> Found:
    """Try one thing after the other, each on top of the best so far; Ctrl-C ends it early."""
    found = Found(default, default)
    try:
        _search(root, found, cores, load, progress)
    except KeyboardInterrupt:
        found.interrupted = True
    return found


def candidates(best: Setting, name: str, cores: int, at_once: int) -> list[Setting]:
    """Give the settings that differ from `best` in `name`; instances need calls to be busy.

    Sizes of a batch are tried where so many observations `at_once` fill it.
    """
    powers = [n for n in (1, 2, 4, 8, 16) if n <= cores]
    values = {"workers": powers, "calls": [1, 2, 4, 8], "instances": powers, "threads": powers}
    values["batch"] = [n for n in (16, 32, 64, 128, configs.MAX_BATCH_SIZE) if n < at_once]
    found = [replace(best, **{name: value}) for value in values[name]]
    if name == "instances":
        found = [replace(one, calls=max(one.calls, one.instances)) for one in found]
    return [one for one in found if getattr(one, name) != getattr(best, name)]


def climb(
    found: Found, cores: int, at_once: int, measure: Callable[[str, Setting], list[float]]
) -> None:
    """Vary one thing after the other, each on top of the best so far; writes into `found`.

    `measure` is told what is varied, and gives the ratios of a setting's throughput to the
    default's, zeros where it failed. A setting is better where their median is so by more than the
    noise.
    """
    at_best = [1.0]
    for name in VARIED:
        start = found.best
        points = {getattr(start, name): Spread.of(at_best, found.per_s)}
        for one in candidates(start, name, cores, at_once):
            value = getattr(one, name)
            ratios = measure(f"{name} {value}", one)
            points[value] = Spread.of(ratios, found.per_s)
            found.curves[name] = [Point(key, points[key]) for key in sorted(points)]
            if statistics.median(ratios) > statistics.median(at_best) * (1 + found.noise):
                found.best, at_best, found.gain = one, ratios, Spread.of(ratios)


def _search(root: Path, found: Found, cores: int, load: Load, progress: Progress) -> None:
    done = 0
    at_once = load.connections * load.rows
    total = 3 + sum(len(candidates(found.default, name, cores, at_once)) for name in VARIED)

    def told(what: str) -> None:
        nonlocal done
        progress(what, done, total)
        done += 1

    with _stack(root, found.default) as base:
        told("the setting against itself")
        with _stack(root, found.default) as other:
            pairs = [(_rate(base, load), _rate(other, load)) for _ in range(2 * load.rounds)]
        found.per_s = statistics.median(first for first, _ in pairs)
        found.noise = max(abs(second / first - 1) for first, second in pairs)

        def measure(what: str, setting: Setting, rounds: int = load.rounds) -> list[float]:
            told(what)
            try:
                with _stack(root, setting) as other:
                    return [_rate(other, load) / _rate(base, load) for _ in range(rounds)]
            except (closed_loop.LoadError, processes.StartError, target.TargetError):
                return [0.0] * rounds  # under which requests fail, or nothing starts

        climb(found, cores, at_once, measure)
        if found.best != found.default:
            found.gain = Spread.of(measure("the best again", found.best, 2 * load.rounds))
            if found.gain.low <= 1 or found.gain.median <= 1 + found.noise:
                found.best, found.gain = found.default, None
    told("connections and observations")
    with _stack(root, found.best) as stack:
        loads = {
            "concurrency": [replace(load, connections=value) for value in CONCURRENCY],
            "rows": [replace(load, rows=value) for value in ROWS],
        }
        for name, each in loads.items():
            # A curve ends where requests begin to fail.
            with contextlib.suppress(closed_loop.LoadError):
                for one in each:
                    rates = [_rate(stack, one) for _ in range(load.rounds)]
                    value = one.connections if name == "concurrency" else one.rows
                    scale = value if name == "rows" else 1
                    curve = found.curves.setdefault(name, [])
                    curve.append(Point(value, Spread.of(rates, scale)))
    progress("done", total, total)


def efficiency(curve: Sequence[Point]) -> list[float]:
    """Give each point's throughput over that of the first, for each unit of its value."""
    single = curve[0].per_s.median / curve[0].value
    return [point.per_s.median / (point.value * single) if single else 0.0 for point in curve]


def knee(curve: Sequence[Point]) -> int:
    """Give the smallest value that reaches `KNEE` of the best throughput."""
    best = max(point.per_s.median for point in curve)
    return next(point.value for point in curve if point.per_s.median >= KNEE * best)


def _rate(stack: Target, load: Load) -> float:
    """Give the requests/s; raises LoadError where some failed, which are no work done."""
    found = closed_loop.run(stack, load.connections, load.seconds, load.rows)
    if found.errors:
        raise closed_loop.LoadError(f"{stack.url}: requests failed: {found.errors}")
    return found.requests_per_s


@contextmanager
def _stack(root: Path, setting: Setting) -> Iterator[Target]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model_repository"
        placement.link(root, place, changed(root, setting))
        variables = {"MODEL_REPOSITORY": str(place), "TRITON_URL": "", "API_KEYS_FILE": ""}
        with processes.stack(**variables, **setting.variables) as ports:
            found = target.gateway(f"http://127.0.0.1:{ports[0]}")
            _rate(found, Load(8, 1, 1, 1))  # warm
            yield found
