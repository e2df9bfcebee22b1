"""The model repository on disk: read, and changed as a whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters import configs
from converters.versions import triton_version

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class RepositoryError(Exception):
    """A repository that can't be read or written; the text says which file and why."""


def read_config(repository: Path, model: str) -> Any:
    """Read a model's config; raises RepositoryError where it is missing or damaged."""
    path = repository / model / "config.pbtxt"
    try:
        return configs.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RepositoryError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise RepositoryError(f"{path}: no Triton model config: {error}") from None


def ensembles(repository: Path) -> list[str]:
    """Give the names of all ensembles of the repository, sorted."""
    if not repository.is_dir():
        raise RepositoryError(f"{repository}: no such model repository; `carlarl export` makes one")
    names = sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
    return [name for name in names if read_config(repository, name).platform == "ensemble"]


def active_version(repository: Path) -> str | None:
    """Give the version that the alias ensemble serves, None where there is no alias."""
    if not (repository / configs.ALIAS / "config.pbtxt").exists():
        return None
    version: str = read_config(repository, configs.ALIAS).parameters["version"].string_value
    return version


def flavour(repository: Path) -> str | None:
    """Give what the repository is served with: `python`, `native`, or None where it is empty."""
    for name in ensembles(repository):
        parameters = read_config(repository, name).parameters
        return parameters["flavour"].string_value if "flavour" in parameters else "python"
    return None


@dataclass(frozen=True)
class Version:
    """One version that the repository holds, as its ensemble's config tells."""

    version: str
    active: bool
    formats: tuple[str, ...]
    digest: str
    metrics: dict[str, Any]


def versions(repository: Path) -> list[Version]:
    """Give the versions of the repository, oldest first."""
    active = active_version(repository)
    found = []
    for name in ensembles(repository):
        if name.startswith(f"{configs.ALIAS}-"):
            config = read_config(repository, name)
            told = {key: entry.string_value for key, entry in config.parameters.items()}
            metrics = json.loads(told["model_card"]).get("performance_metrics", {})
            formats = tuple(told["formats"].split(","))
            is_active = told["version"] == active
            found.append(
                Version(told["version"], is_active, formats, told["artifact_digest"], metrics)
            )
    return sorted(found, key=lambda one: triton_version(one.version))


@contextmanager
def transaction(
    repository: Path, confirm: Callable[[], None] = lambda: None, *, only: str | None = None
) -> Iterator[Path]:
    """Give a copy of the repository to change; it takes the repository's place on a clean exit.

    The two folders are exchanged in one step of the file system. After an exception, or a kill at
    any moment, the repository is as it was. `confirm` is called after the exchange: if it raises,
    the repository from before is put back. Files of the copy are hard links: replace files, never
    write into them (`write` does so).

    With `only`, what is copied, given and exchanged is the folder of that model. Triton takes all
    that was linked anew for changed and loads it again, which leaves the other models alone.
    """
    repository = repository.resolve()
    repository.parent.mkdir(parents=True, exist_ok=True)
    place = repository if only is None else repository / only
    prefix = f".{repository.name}.change-"
    with _lock(repository):
        beside = _staging_place(repository, only)
        for left_by_a_kill in beside.glob(f"{prefix}*"):
            shutil.rmtree(left_by_a_kill, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(prefix=prefix, dir=beside))
        try:
            yield from _change(place, staging, confirm)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _staging_place(repository: Path, only: str | None) -> Path:
    """Give the folder to prepare a change in: beside the repository, unless that is a mount."""
    mounted = repository.exists() and os.path.ismount(repository)
    return repository if only is not None and mounted else repository.parent


def _change(place: Path, staging: Path, confirm: Callable[[], None]) -> Iterator[Path]:
    tree = staging / place.name
    if not place.exists():
        tree.mkdir()
        yield tree
        tree.rename(place)
        try:
            confirm()
        except BaseException:
            place.rename(tree)
            raise
        return
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(place, tree, ignore=ignored, copy_function=_link)
    yield tree
    _exchange(tree, place)
    try:
        confirm()
    except BaseException:
        _exchange(tree, place)
        raise


@contextmanager
def _lock(repository: Path) -> Iterator[None]:
    folder = os.open(repository.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise RepositoryError(f"{repository}: another command is changing it") from None
    finally:
        os.close(folder)


def write(path: Path, content: bytes) -> None:
    """Put `content` at `path`, leaving a file that holds it already untouched."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def write_ensemble(tree: Path, name: str, config: str) -> None:
    """Put an ensemble into the repository in `tree`."""
    write(tree / name / "config.pbtxt", config.encode())
    # Triton wants a version's folder, and git keeps no empty one.
    write(tree / name / "1" / ".gitkeep", b"")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def _exchange(first: Path, second: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    if libc.renameat2(*arguments) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS):
        raise RepositoryError(f"{second}: can't be replaced: {os.strerror(code)}")
    # A file system that can't exchange: two renames, undone if the second fails.
    aside = first.with_name(f"{first.name}.old")
    second.rename(aside)
    try:
        first.rename(second)
    except OSError:
        aside.rename(second)
        raise
