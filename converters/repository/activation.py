"""The active version of the model repository, and its history."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from converters.repository import configs, repository
from converters.repository.repository import RepositoryError

HISTORY = f"{configs.ALIAS}/history.json"
"""In the alias's folder, so that both change in one step. Triton ignores files there."""

KEPT = 100
"""How many changes the history keeps."""

How = Literal["export", "promote", "rollback"]


@dataclass(frozen=True)
class Change:
    """One change of the active version: from which to which, how, and when (UTC, ISO 8601)."""

    previous: str
    version: str
    how: How
    at: str


def set_alias(tree: Path, version: str, how: How = "export", *, folder: Path | None = None) -> None:
    """Make `version` the active one of the repository in `tree`, and add that to the history.

    The alias is written into `tree`, or into `folder` if given: the copy of the alias's folder from
    `transaction`. Raises RepositoryError if the repository does not hold the version.
    """
    repository.check_held(tree, version, [one.version for one in repository.versions(tree)])
    previous = repository.active_version(tree)
    config = repository.read_config(tree, configs.ensemble_name(version))
    config.name = configs.ALIAS
    folder = folder or tree / configs.ALIAS
    repository.write_ensemble(folder.parent, folder.name, configs.text(config))
    if previous is not None and previous != version:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        changes = [*history(tree), Change(previous, version, how, now)]
        content = {"changes": [asdict(change) for change in changes[-KEPT:]]}
        path = folder / Path(HISTORY).name
        repository.write(path, (json.dumps(content, indent=1) + "\n").encode())


def history(tree: Path) -> list[Change]:
    """Return the changes of the active version, oldest first.

    Raises RepositoryError if the file is damaged.
    """
    path = tree / HISTORY
    try:
        return [Change(**change) for change in json.loads(path.read_text())["changes"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RepositoryError(
            f"{path}: no history of promotions ({error}); remove it to begin a new one"
        ) from None


def before(tree: Path) -> str:
    """Return the version that a rollback goes to.

    A rollback undoes the last change that is not undone yet, so that several in a row go further
    back. Raises RepositoryError if nothing is left to undo.
    """
    earlier: list[str] = []
    for change in history(tree):
        if change.how != "rollback":
            earlier.append(change.previous)
        elif earlier:  # else it undid a change that is no longer in the history
            earlier.pop()
    if not earlier:
        raise RepositoryError(
            f"{tree / HISTORY}: no promotion that could be rolled back; "
            "`carlarl promote VERSION` activates any version that the repository holds"
        )
    return earlier[-1]
