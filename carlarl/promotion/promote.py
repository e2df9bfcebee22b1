"""Another version becomes the active one: on disk, and in the Triton that is running."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carlarl.errors import CommandError
from carlarl.promotion.triton_control import ControlError, TritonControl
from converters.repository import activation, configs
from converters.repository import repository as repositories
from converters.repository.preflight import check_files, compile_models
from converters.repository.repository import RepositoryError
from converters.repository.tensors import MAX_BATCH_SIZE

WARMUP_ROWS = (1, 8, 64, MAX_BATCH_SIZE)

Progress = Callable[[str], None]


class PromotionError(CommandError):
    """A change that did not happen. The text names the step, the reason and what is active."""


@dataclass(frozen=True)
class Promoted:
    """What is active now, what was before, and how long it took; `triton` None: only on disk."""

    version: str
    previous: str | None
    triton: str | None
    seconds: float


def promote(
    repository: Path,
    version: str | None,
    triton: TritonControl | None,
    progress: Progress = lambda step: None,
    *,
    allow_signature_change: bool = False,
) -> Promoted:
    """Make `version` the active one, in the repository and in the server that runs on it.

    Without `version` that is the one before the last promotion that was not rolled back yet.
    Without `triton` only the repository changes. Otherwise the server loads the version beside the
    active one, warms it, and it must repeat its recorded answers before the alias moves. Requests
    in flight finish on the old version, which stays loaded. A version with other inputs or outputs
    than the active one is refused, unless `allow_signature_change`. Raises PromotionError, which
    names the step, and then leaves repository and server as they were.
    """
    began = time.monotonic()
    switch = Switch(triton, progress)
    how: activation.How = "promote" if version else "rollback"
    try:
        with switch.step("read the repository"):
            switch.active = previous = repositories.active_version(repository)
        try:
            with repositories.transaction(
                repository, switch.move_alias, only=configs.ALIAS
            ) as folder:
                with switch.step("find the version"):
                    version = version or activation.before(repository)
                    _check_pinned(triton, version)
                    if not allow_signature_change:
                        _check_signature(repository, version, triton)
                switch.open(repository, version)
                switch.load_beside()
                switch.load_fused()
                with switch.step("write the repository"):
                    activation.set_alias(repository, version, how, folder=folder)
        except BaseException:
            switch.move_alias_back()
            raise
    except RepositoryError as error:  # the lock, or the exchange itself
        raise PromotionError(f"{error}; {switch.outcome()}") from None
    url = triton.url if triton else None
    return Promoted(version, previous, url, round(time.monotonic() - began, 3))


def _check_pinned(triton: TritonControl | None, version: str) -> None:
    if triton is not None and triton.pinned not in (None, version):
        raise RepositoryError(
            f"the gateway at {triton.url} answers with MODEL_VERSION={triton.pinned} whatever is "
            "active: restart it without that setting"
        )


def _check_signature(repository: Path, version: str, triton: TritonControl | None) -> None:
    """Refuse a version whose callers would have to send or read something else.

    The active version is the one that `triton` serves, which an export since may have replaced.
    """
    names = [configs.ALIAS, configs.ensemble_name(version)]
    if not all((repository / name).is_dir() for name in names):
        return
    alias, config = (repositories.read_config(repository, name) for name in names)
    if triton is not None:
        with suppress(ControlError, KeyError):  # it serves none
            card = triton.parameters(configs.ALIAS)["model_card"]
            alias.parameters["model_card"].string_value = card
    try:
        active, new = map(configs.signature, (alias, config))
    except ValueError as error:
        raise RepositoryError(f"{version}: its card and the active one's: {error}") from None
    if not active.same_interface(new):
        before, after = active.interface(), new.interface()
        differ = ", ".join(key for key in before if before[key] != after[key]) or "order of keys"
        raise RepositoryError(
            f"{version} has another signature than the active version ({differ}): callers must "
            "send or read something else; --allow-signature-change activates it all the same"
        )


@dataclass(frozen=True)
class Recorded:
    """What the repository says of a version: its identity, and its recorded answers."""

    version: str
    digest: str
    observations: list[dict[str, Any]]
    actions: NDArray[np.float64]
    tolerance: float
    max_rows: int
    steps: list[str]


def recorded(repository: Path, version: str) -> Recorded:
    """Read what the repository says of `version`; raise RepositoryError if it can't be read."""
    repositories.check_held(repository, version)
    config = repositories.read_config(repository, configs.ensemble_name(version))
    try:
        golden = json.loads(config.parameters["golden"].string_value)
        return Recorded(
            version,
            config.parameters["artifact_digest"].string_value,
            golden["observations"],
            np.array(golden["actions"], np.float64).reshape(len(golden["observations"]), -1),
            float(golden["tolerance"]),
            config.max_batch_size,
            [step.model_name for step in config.ensemble_scheduling.step],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RepositoryError(
            f"{configs.ensemble_name(version)}: its recorded answers can't be read ({error!r}); "
            f"`carlarl export --version {version}` writes them again"
        ) from None


class Switch:
    """The server's part of a switch, step by step; without a server it does nothing."""

    recorded: Recorded
    active: str | None = None
    """The version that is active before."""

    def __init__(self, triton: TritonControl | None, progress: Progress) -> None:
        """Take the server, and what gets the name of each step."""
        self._triton = triton
        self._progress = progress
        self._moved = False

    def outcome(self) -> str:
        """Say what is active after a failure."""
        return f"{self.active} stays active" if self.active else "no version is active"

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Name the step in which something goes wrong."""
        self._progress(name)
        try:
            yield
        except (ControlError, RepositoryError) as error:
            raise PromotionError(f"{name}: {error}; {self.outcome()}") from None

    def open(self, repository: Path, version: str) -> None:
        """Read what the repository has of `version`, and open its files."""
        with self.step("find the version"):
            self.recorded = recorded(repository, version)
        with self.step("open its files"):
            check_files(repository, version)
            compile_models(repository)

    def load_beside(self) -> None:
        """Load the version's own ensemble beside the active one, warm it, check its answers."""
        triton, golden = self._triton, self.recorded.observations
        if triton is None:
            return
        model = configs.ensemble_name(self.recorded.version)
        with self.step("find it on the server"):
            loaded = triton.models()
            if model not in loaded:
                raise ControlError(
                    f"the Triton at {triton.url} does not see {model}, so it serves another "
                    "repository (--offline changes this one alone)"
                )
        with self.step("load it beside the active version"):
            # One process after the other, so that a core is left for those that serve.
            for step in self.recorded.steps:
                if not loaded.get(step):
                    triton.load(step)
            triton.load_ready(model)
            self._check_same(triton, model)
        with self.step("warm it up"):
            for rows in sorted({min(rows, self.recorded.max_rows) for rows in WARMUP_ROWS}):
                triton.act(model, [golden[row % len(golden)] for row in range(rows)])
        with self.step("golden inference"):
            self._check_golden(triton, model)

    def load_fused(self) -> None:
        """Load the model that gateways call for the active version, if the version has one."""
        triton = self._triton
        fused = configs.ensemble_name(self.recorded.version, configs.FUSED)
        if triton is not None and fused in triton.models():
            with self.step("load the model that gateways call"):
                triton.load_ready(fused)
                self._check_golden(triton, fused)

    def move_alias(self) -> None:
        """Let the server read the alias again, and check that it is the new version."""
        if self._triton is None:
            return
        self._moved = True
        with self.step("move the alias"):
            self._triton.load_ready(configs.ALIAS)
        with self.step("check the alias"):
            self._check_same(self._triton, configs.ALIAS)
            self._check_golden(self._triton, configs.ALIAS)

    def move_alias_back(self) -> None:
        """Let the server read the old alias again, if it has read the new one."""
        if self._triton is not None and self._moved:
            try:
                self._triton.load_ready(configs.ALIAS)
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
