"""Which versions a running Triton has loaded, and which the repository holds at all."""

from pathlib import Path

from carlarl.promotion.promote import Progress, PromotionError, Switch
from carlarl.promotion.triton_control import TritonControl
from converters.repository import activation, configs
from converters.repository import repository as repositories


def load(repository: Path, version: str, triton: TritonControl, progress: Progress) -> None:
    """Load `version` beside the active one, and let every later start load it.

    Raises PromotionError, which names the step, if it does not answer as it was recorded.
    """
    switch = Switch(triton, progress)
    switch.active = repositories.active_version(repository)
    with repositories.transaction(repository, only=configs.ALIAS) as folder:
        switch.open(repository, version)
        switch.load_beside()
        activation.request(repository, folder, activation.requested(repository) | {version})


def unload(repository: Path, version: str, triton: TritonControl) -> None:
    """Take `version` out of the server, after the requests that it has; the files stay.

    Raises PromotionError if it is the active version.
    """
    with repositories.transaction(repository, only=configs.ALIAS) as folder:
        _check_idle(repository, version, triton)
        activation.request(repository, folder, activation.requested(repository) - {version})
        for model in _loaded(version, triton):
            triton.unload(model)


def remove(repository: Path, version: str, triton: TritonControl | None) -> None:
    """Take `version` out of the repository.

    Raises PromotionError if it is the active version, or if the server has it loaded.
    """
    with repositories.transaction(repository) as tree:
        _check_idle(repository, version, triton)
        if triton is not None and _loaded(version, triton):
            raise PromotionError(
                f"{triton.url} serves {version}: `carlarl unload {version}` first; nothing was "
                "changed"
            )
        repositories.remove_version(tree, version)
        activation.forget(tree, version)


def _check_idle(repository: Path, version: str, triton: TritonControl | None) -> None:
    repositories.check_held(repository, version)
    in_use = {repositories.active_version(repository)}
    if triton is not None:
        in_use |= {triton.pinned, triton.parameters(configs.ALIAS).get("version")}
    if version in in_use:
        raise PromotionError(
            f"{version} is the active version: promote another one first; nothing was changed"
        )


def _loaded(version: str, triton: TritonControl) -> list[str]:
    """Return the models of a version that are loaded, ensembles before their steps."""
    models = triton.models()
    return sorted(one for one in models if models[one] and repositories.version_of(one) == version)
