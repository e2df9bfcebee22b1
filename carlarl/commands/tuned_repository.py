"""The share of `carlarl tune` in the model repository: read it, try it, write it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from converters.repository import configs, placement, repository
from perf.studies.tuning import Setting


def _models(root: Path) -> list[str]:
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
    """Return the setting of the repository and of the gateway. Raises RepositoryError."""
    config = repository.read_config(root, _models(root)[-1])
    batch = repository.read_config(root, configs.ALIAS).max_batch_size
    return Setting(config.instance_group[0].count, configs.threads(config), batch, calls, workers)


def _changed(root: Path, setting: Setting) -> dict[str, Any]:
    """Return the configs that differ for `setting`, by model."""
    made = {}
    for model in _models(root):
        config = made[model] = repository.read_config(root, model)
        configs.tune(config, setting.instances, setting.threads)
    # Gateways go by the ensemble's size of a batch, whichever model they call.
    for model in (configs.ALIAS, configs.ensemble_name(str(repository.active_version(root)))):
        config = repository.read_config(root, model)
        if config.max_batch_size != setting.batch:
            config.max_batch_size = setting.batch
            made[model] = config
    return made


@contextmanager
def trial(root: Path, setting: Setting) -> Iterator[Path]:
    """Yield a repository with this setting; it is removed when the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model_repository"
        placement.link(root, place, _changed(root, setting))
        yield place


def write(root: Path, setting: Setting) -> list[str]:
    """Write `setting` into the repository, all or nothing; return the models that changed.

    Raises RepositoryError.
    """
    made = _changed(root, setting)
    with repository.transaction(root) as tree:
        for model, config in made.items():
            repository.write(tree / model / "config.pbtxt", configs.text(config).encode())
    return list(made)
