"""Another version becomes the active one: on disk, and in the Triton that is running."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from carlarl.promotion.steps import Progress, PromotionError, Switch, recorded
from carlarl.promotion.triton_control import TritonControl
from converters.repository import activation, configs
from converters.repository import repository as repositories
from converters.repository.preflight import check_files, compile_models
from converters.repository.repository import RepositoryError


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
                        _check_signature(repository, version)
                    switch.recorded = recorded(repository, version)
                with switch.step("open its files"):
                    check_files(repository, version)
                    compile_models(repository)
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


def _check_signature(repository: Path, version: str) -> None:
    """Refuse a version whose callers would have to send or read something else."""
    names = [configs.ALIAS, configs.ensemble_name(version)]
    if not all((repository / name).is_dir() for name in names):
        return
    active, new = (configs.signature(repositories.read_config(repository, name)) for name in names)
    if active != new:
        differ = ", ".join(sorted(" ".join(map(str, one)) for one in active ^ new))
        raise RepositoryError(
            f"{version} has another signature than the active version ({differ}): callers must "
            "send or read something else; --allow-signature-change activates it all the same"
        )
