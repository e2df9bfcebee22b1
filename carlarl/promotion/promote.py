"""Another version becomes the active one: on disk, and in the Triton that is running."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carlarl.errors import CommandError
from carlarl.promotion.preflight import check_files
from carlarl.promotion.triton_control import ControlError, TritonControl
from converters.repository import activation, configs
from converters.repository import repository as repositories
from converters.repository.repository import RepositoryError
from gateway.settings import Settings

WARMUP_ROWS = (1, 8, 64, configs.MAX_BATCH_SIZE)

Progress = Callable[[str], None]


class PromotionError(CommandError):
    """A promotion that did not happen; the text says at which step, why, and what is active."""


@dataclass(frozen=True)
class Promoted:
    """What is active now, what was before, and how long it took; `triton` None: only on disk."""

    version: str
    previous: str | None
    triton: str | None
    seconds: float


@dataclass(frozen=True)
class _Told:
    """What the repository says of a version: its identity, and its recorded answers."""

    version: str
    digest: str
    observations: list[dict[str, Any]]
    actions: NDArray[np.float64]
    tolerance: float
    max_rows: int


def promote(
    repository: Path,
    version: str,
    triton: TritonControl | None,
    progress: Progress = lambda step: None,
) -> Promoted:
    """Make `version` the active one, in the repository and in the server that runs on it.

    Without `triton` only the repository changes. With it, the version is loaded beside the active
    one, warmed, and must repeat its recorded answers before the alias moves; requests in flight
    finish on the old version, which stays loaded. Raises PromotionError, naming the step, and
    leaves repository and server as they were.
    """
    return _switch(repository, lambda _: version, "promote", triton, progress)


def rollback(
    repository: Path, triton: TritonControl | None, progress: Progress = lambda step: None
) -> Promoted:
    """Go back to the version that was active before the last promotion that is not undone yet.

    As careful as `promote`. Raises PromotionError, also where the history holds nothing to undo.
    """
    return _switch(repository, activation.before, "rollback", triton, progress)


@contextmanager
def running_triton(settings: Settings | None) -> Iterator[TritonControl | None]:
    """Give the server to promote on: at TRITON_URL, or on the embedded server's port.

    Raises PromotionError where one was named and does not answer; None where none was named and
    nothing listens on the embedded server's port, or without settings.
    """
    if settings is None:
        yield None
        return
    with TritonControl(
        settings.triton_endpoint, settings.triton_token, settings.triton_grpc_port
    ) as control:
        there = control.answers()
        if settings.triton_url and not there:
            raise PromotionError(
                f"connect: no Triton answers at {settings.triton_url}; nothing was changed. "
                "--offline changes the repository alone"
            )
        yield control if there else None


def _switch(
    repository: Path,
    choose: Callable[[Path], str],
    how: activation.How,
    triton: TritonControl | None,
    progress: Progress,
) -> Promoted:
    began = time.monotonic()
    steps = _Steps(progress)
    previous: str | None = None
    try:
        with steps.step("read the repository"):
            previous = repositories.active_version(repository)
            steps.active = previous
        flip = _Flip(triton, steps)
        try:
            with repositories.transaction(repository, flip.confirm, only=configs.ALIAS) as folder:
                with steps.step("find the version"):
                    version = choose(repository)
                    flip.told = _tell(repository, version)
                with steps.step("open its files"):
                    check_files(repository, version)
                if triton is not None:
                    _bring_up(triton, version, flip.told, steps)
                with steps.step("write the repository"):
                    activation.set_alias(repository, version, how, folder=folder)
        except BaseException:
            flip.put_back()
            raise
    except RepositoryError as error:  # the lock, or the exchange itself
        raise PromotionError(f"{error}; {steps.outcome()}") from None
    return Promoted(
        version, previous, triton.url if triton else None, round(time.monotonic() - began, 3)
    )


class _Steps:
    """Names the step at which something went wrong."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.active: str | None = None

    def outcome(self) -> str:
        return f"{self.active} stays active" if self.active else "no version is active"

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self._progress(name)
        try:
            yield
        except (ControlError, RepositoryError) as error:
            raise PromotionError(f"{name}: {error}; {self.outcome()}") from None


class _Flip:
    """Moves the server's alias once the repository has moved; moves it back where that fails."""

    def __init__(self, triton: TritonControl | None, steps: _Steps) -> None:
        self._triton = triton
        self._steps = steps
        self._touched = False
        self.told: _Told | None = None

    def confirm(self) -> None:
        """Let the server read the alias again, and check that it is the new version."""
        if self._triton is None or self.told is None:
            return
        self._touched = True
        with self._steps.step("move the alias"):
            self._triton.load(configs.ALIAS)
            self._triton.wait_ready(configs.ALIAS)
        with self._steps.step("check the alias"):
            _check_same(self._triton, configs.ALIAS, self.told)
            _check_golden(self._triton, configs.ALIAS, self.told)

    def put_back(self) -> None:
        """Let the server read the alias that the repository has again."""
        if self._triton is not None and self._touched:
            try:
                self._triton.load(configs.ALIAS)
                self._triton.wait_ready(configs.ALIAS)
            except ControlError as error:
                raise PromotionError(
                    f"move the alias back: {error}; the repository is as it was, restart the "
                    "server or load carla_policy again"
                ) from None


def _bring_up(triton: TritonControl, version: str, told: _Told, steps: _Steps) -> None:
    """Load the version's own ensemble beside the active one, warm it, and check its answers."""
    model = configs.ensemble_name(version)
    with steps.step("find it on the server"):
        if model not in triton.models():
            raise ControlError(
                f"the Triton at {triton.url} does not see {model}, so it serves another "
                "repository (--offline changes this one alone)"
            )
    with steps.step("load it beside the active version"):
        triton.load(model)  # nothing happens where it is loaded as the repository has it
    with steps.step("wait until it is ready"):
        triton.wait_ready(model)
        _check_same(triton, model, told)
    with steps.step("warm it up"):
        golden = told.observations
        for rows in sorted({min(rows, told.max_rows) for rows in WARMUP_ROWS}):
            triton.act(model, [golden[row % len(golden)] for row in range(rows)])
    with steps.step("golden inference"):
        _check_golden(triton, model, told)
    fused = configs.ensemble_name(version, configs.FUSED)
    if fused in triton.models():
        with steps.step("load the model that gateways call"):
            triton.load(fused)
            triton.wait_ready(fused)
            _check_golden(triton, fused, told)


def _tell(repository: Path, version: str) -> _Told:
    held = [one.version for one in repositories.versions(repository)]
    repositories.check_held(repository, version, held)
    config = repositories.read_config(repository, configs.ensemble_name(version))
    parameters = config.parameters
    try:
        golden = json.loads(parameters["golden"].string_value)
        return _Told(
            version,
            parameters["artifact_digest"].string_value,
            golden["observations"],
            np.array(golden["actions"], np.float64).reshape(-1, 3),
            float(golden["tolerance"]),
            config.max_batch_size,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RepositoryError(
            f"{configs.ensemble_name(version)}: its recorded answers can't be read ({error!r}); "
            f"`carlarl export --version {version}` writes them again"
        ) from None


def _check_same(triton: TritonControl, model: str, told: _Told) -> None:
    served = triton.parameters(model)
    for name, expected in (("version", told.version), ("artifact_digest", told.digest)):
        if served.get(name) != expected:
            raise ControlError(
                f"{model} has {name} {served.get(name)} on the server and {expected} in the "
                "repository: the server serves another repository, or an older export of it, or "
                "TRITON_GRPC_PORT is another server's"
            )


def _check_golden(triton: TritonControl, model: str, told: _Told) -> None:
    error = float(np.abs(triton.act(model, told.observations) - told.actions).max())
    if not error <= told.tolerance:
        raise ControlError(
            f"{model} does not repeat its recorded answers: they differ by {error:.2g}, allowed "
            f"is {told.tolerance:g}"
        )
