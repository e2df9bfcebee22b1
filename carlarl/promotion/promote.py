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
from gateway.config.settings import Settings

WARMUP_ROWS = (1, 8, 64, configs.MAX_BATCH_SIZE)

Progress = Callable[[str], None]


class PromotionError(CommandError):
    """A promotion that did not happen. The text names the step, the reason and what is active."""


@dataclass(frozen=True)
class Promoted:
    """What is active now, what was before, and how long it took; `triton` None: only on disk."""

    version: str
    previous: str | None
    triton: str | None
    seconds: float


def promote(
    repository: Path,
    version: str,
    triton: TritonControl | None,
    progress: Progress = lambda step: None,
) -> Promoted:
    """Make `version` the active one, in the repository and in the server that runs on it.

    Without `triton` only the repository changes. Otherwise the server loads the version beside the
    active one, warms it, and it must repeat its recorded answers before the alias moves. Requests
    in flight finish on the old version, which stays loaded. Raises PromotionError, which names the
    step, and then leaves repository and server as they were.
    """
    return _switch(repository, lambda _: version, "promote", triton, progress)


def rollback(
    repository: Path, triton: TritonControl | None, progress: Progress = lambda step: None
) -> Promoted:
    """Go back to the version before the last promotion that was not rolled back yet.

    It is as careful as `promote`. Raises PromotionError, also if the history has nothing to undo.
    """
    return _switch(repository, activation.before, "rollback", triton, progress)


@contextmanager
def running_triton(settings: Settings | None) -> Iterator[TritonControl | None]:
    """Return the server to promote on: the one at TRITON_URL, or the embedded one.

    It is None without settings, or if TRITON_URL is not set and nothing listens on the embedded
    server's port. Raises PromotionError if no server answers at TRITON_URL.
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
    switch = _Switch(triton, progress)
    try:
        with switch.step("read the repository"):
            switch.active = previous = repositories.active_version(repository)
        try:
            with repositories.transaction(
                repository, switch.move_alias, only=configs.ALIAS
            ) as folder:
                with switch.step("find the version"):
                    version = choose(repository)
                    switch.recorded = _recorded(repository, version)
                with switch.step("open its files"):
                    check_files(repository, version)
                switch.load_beside()
                with switch.step("write the repository"):
                    activation.set_alias(repository, version, how, folder=folder)
        except BaseException:
            switch.move_alias_back()
            raise
    except RepositoryError as error:  # the lock, or the exchange itself
        raise PromotionError(f"{error}; {switch.outcome()}") from None
    url = triton.url if triton else None
    return Promoted(version, previous, url, round(time.monotonic() - began, 3))


@dataclass(frozen=True)
class _Recorded:
    """What the repository says of a version: its identity, and its recorded answers."""

    version: str
    digest: str
    observations: list[dict[str, Any]]
    actions: NDArray[np.float64]
    tolerance: float
    max_rows: int


def _recorded(repository: Path, version: str) -> _Recorded:
    held = [one.version for one in repositories.versions(repository)]
    repositories.check_held(repository, version, held)
    config = repositories.read_config(repository, configs.ensemble_name(version))
    try:
        golden = json.loads(config.parameters["golden"].string_value)
        return _Recorded(
            version,
            config.parameters["artifact_digest"].string_value,
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


class _Switch:
    """The server's part of a switch, step by step; without a server it does nothing."""

    recorded: _Recorded
    active: str | None = None

    def __init__(self, triton: TritonControl | None, progress: Progress) -> None:
        self._triton = triton
        self._progress = progress
        self._moved = False

    def outcome(self) -> str:
        return f"{self.active} stays active" if self.active else "no version is active"

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Name the step in which something goes wrong."""
        self._progress(name)
        try:
            yield
        except (ControlError, RepositoryError) as error:
            raise PromotionError(f"{name}: {error}; {self.outcome()}") from None

    def load_beside(self) -> None:
        """Load the version's own ensemble beside the active one, warm it, check its answers."""
        triton, golden = self._triton, self.recorded.observations
        if triton is None:
            return
        model = configs.ensemble_name(self.recorded.version)
        with self.step("find it on the server"):
            if model not in triton.models():
                raise ControlError(
                    f"the Triton at {triton.url} does not see {model}, so it serves another "
                    "repository (--offline changes this one alone)"
                )
        with self.step("load it beside the active version"):
            triton.load(model)  # does nothing if it is loaded and its files have not changed
        with self.step("wait until it is ready"):
            triton.wait_ready(model)
            self._check_same(triton, model)
        with self.step("warm it up"):
            for rows in sorted({min(rows, self.recorded.max_rows) for rows in WARMUP_ROWS}):
                triton.act(model, [golden[row % len(golden)] for row in range(rows)])
        with self.step("golden inference"):
            self._check_golden(triton, model)
        fused = configs.ensemble_name(self.recorded.version, configs.FUSED)
        if fused in triton.models():
            with self.step("load the model that gateways call"):
                triton.load(fused)
                triton.wait_ready(fused)
                self._check_golden(triton, fused)

    def move_alias(self) -> None:
        """Let the server read the alias again, and check that it is the new version."""
        if self._triton is None:
            return
        self._moved = True
        with self.step("move the alias"):
            self._triton.load(configs.ALIAS)
            self._triton.wait_ready(configs.ALIAS)
        with self.step("check the alias"):
            self._check_same(self._triton, configs.ALIAS)
            self._check_golden(self._triton, configs.ALIAS)

    def move_alias_back(self) -> None:
        """Let the server read the old alias again, if it has read the new one."""
        if self._triton is not None and self._moved:
            try:
                self._triton.load(configs.ALIAS)
                self._triton.wait_ready(configs.ALIAS)
            except ControlError as error:
                raise PromotionError(
                    f"move the alias back: {error}; the repository is as it was, restart the "
                    "server or load carla_policy again"
                ) from None

    def _check_same(self, triton: TritonControl, model: str) -> None:
        served = triton.parameters(model)
        expected = {"version": self.recorded.version, "artifact_digest": self.recorded.digest}
        for name, value in expected.items():
            if served.get(name) != value:
                raise ControlError(
                    f"{model} has {name} {served.get(name)} on the server and {value} in the "
                    "repository: the server serves another repository, or an older export of it, "
                    "or TRITON_GRPC_PORT is another server's"
                )

    def _check_golden(self, triton: TritonControl, model: str) -> None:
        actions = triton.act(model, self.recorded.observations)
        error = float(np.abs(actions - self.recorded.actions).max())
        if not error <= self.recorded.tolerance:
            raise ControlError(
                f"{model} does not repeat its recorded answers: they differ by {error:.2g}, "
                f"allowed is {self.recorded.tolerance:g}"
            )
