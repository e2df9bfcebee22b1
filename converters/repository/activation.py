"""The active version of the model repository, and its history."""

import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from converters.repository import configs, repository
from converters.repository.repository import RepositoryError

HISTORY = f"{configs.ALIAS}/history.json"
"""In the alias's folder, so that both change in one step. Triton ignores files there.

It also has the versions that `carlarl load` asked for.
"""

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
    repository.check_held(tree, version)
    previous = repository.active_version(tree)
    config = repository.read_config(tree, configs.ensemble_name(version))
    config.name = configs.ALIAS
    folder = folder or tree / configs.ALIAS
    repository.write_ensemble(folder.parent, folder.name, configs.text(config))
    if previous is not None and previous != version:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        changes, loaded = _read(tree)
        _write(folder, [*changes, Change(previous, version, how, now)], loaded)


def request(tree: Path, folder: Path, versions: Collection[str]) -> None:
    """Write the versions that every start shall load into `folder`, a copy of the alias's."""
    _write(folder, history(tree), versions)


def forget(tree: Path, version: str) -> None:
    """Take a version that is removed out of the history and the requested ones."""
    changes, loaded = _read(tree)
    kept = [one for one in changes if version not in (one.previous, one.version)]
    _write(tree / configs.ALIAS, kept, loaded - {version})


def wanted(tree: Path, further: Collection[str] = ()) -> list[str]:
    """Return the versions that a server loads, the active one first.

    The others are the one that a rollback goes to (without a history: the next older one), those
    that `carlarl load` asked for, and `further` ones. Damaged versions count, too. Raises
    RepositoryError if the repository has no active version.
    """
    held = repository.held(tree)
    active = repository.active_version(tree)
    if active is None:
        raise RepositoryError(f"{tree}: no active version; `carlarl export` makes one active")
    asked, older = set[str](), held[: held.index(active)][-1:]
    with suppress(RepositoryError):  # a damaged or empty history keeps nobody from serving
        asked = requested(tree)
        older = [before(tree)]
    found = dict.fromkeys([active, *older, *sorted(asked), *further])
    return [version for version in found if version in held]


def history(tree: Path) -> list[Change]:
    """Return the changes of the active version, oldest first.

    Raises RepositoryError if the file is damaged.
    """
    return _read(tree)[0]


def requested(tree: Path) -> set[str]:
    """Return the versions that `carlarl load` asked for; raises as `history` does."""
    return _read(tree)[1]


def _read(tree: Path) -> tuple[list[Change], set[str]]:
    path = tree / HISTORY
    try:
        content = json.loads(path.read_text())
        return [Change(**one) for one in content["changes"]], set(content.get("loaded", ()))
    except FileNotFoundError:
        return [], set()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RepositoryError(
            f"{path}: no history of promotions ({error}); remove it to begin a new one"
        ) from None


def _write(folder: Path, changes: Sequence[Change], loaded: Collection[str]) -> None:
    content = {"changes": [asdict(one) for one in changes[-KEPT:]], "loaded": sorted(loaded)}
    text = json.dumps(content, indent=1) + "\n"
    repository.write(folder / Path(HISTORY).name, text.encode())


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
