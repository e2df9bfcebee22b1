"""What a Triton loads when it starts. `python -m converters.repository.start` prints the models.

It reads MODEL_REPOSITORY, MODEL_VERSION and SERVE_VERSIONS, as `carlarl serve` does.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from converters.errors import ConversionError
from converters.repository import activation, configs, preflight, repository
from converters.repository.repository import RepositoryError


@dataclass(frozen=True)
class Start:
    """What a Triton loads.

    Attributes:
        active: the version that gateways ask for.
        models: the names of the models to load; Triton loads an ensemble's steps with it.
        damaged: version → why it is left out.
    """

    active: str
    models: list[str]
    damaged: dict[str, str]


def plan(
    root: Path, pinned: str | None = None, further: Sequence[str] = (), formats: Sequence[str] = ()
) -> Start:
    """Return what a Triton on the repository `root` loads at its start.

    It is the alias, and the versions that `activation.wanted` names, in their default format and in
    `formats`, with the fused model of the active one. `pinned` is MODEL_VERSION, `further` are
    SERVE_VERSIONS. Raises RepositoryError if the repository is missing, has no active version, or
    lacks one of these.
    """
    asked = dict.fromkeys(further, "SERVE_VERSIONS") | ({pinned: "MODEL_VERSION"} if pinned else {})
    wanted = activation.wanted(root, asked)
    held = repository.held(root)
    for version in asked.keys() - wanted:
        known = ", ".join(held)
        raise RepositoryError(f"{asked[version]}={version}: {root} lacks it; it holds {known}")
    active = pinned or wanted[0]
    damaged = {one.version: one.damaged for one in repository.versions(root) if one.damaged}
    # Of a shared model Triton loads the files of all versions.
    opened = held if repository.shared(root) else wanted
    for version in opened:  # without the active one nothing works: Triton says why
        if version not in (active, wanted[0], *damaged) and (
            why := preflight.damage(root, version, formats)
        ):
            damaged[version] = why
    names = [configs.ensemble_name(active, configs.FUSED)]
    for version in [version for version in wanted if version not in damaged]:
        names += [configs.ensemble_name(version, form) for form in (None, *formats)]
    models = [configs.ALIAS, *(name for name in names if (root / name).is_dir())]
    return Start(active, models, damaged)


def main() -> int:
    """Print the models, one a line, and on standard error what is damaged or wrong."""
    root = Path(os.environ.get("MODEL_REPOSITORY", "model_repository"))
    further = filter(None, map(str.strip, os.environ.get("SERVE_VERSIONS", "").split(",")))
    try:
        found = plan(root, os.environ.get("MODEL_VERSION") or None, tuple(further))
    except ConversionError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for version, why in found.damaged.items():
        sys.stderr.write(f"{version} is damaged and left out: {why}\n")
    sys.stdout.writelines(f"{model}\n" for model in found.models)
    return 0


if __name__ == "__main__":
    sys.exit(main())
