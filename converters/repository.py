"""The model repository on disk: read, and changed as a whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
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


def check_held(repository: Path, version: str, held: Collection[str]) -> None:
    """Raise RepositoryError where `version` is not among the versions `held`."""
    if version not in held:
        known = ", ".join(sorted(held, key=triton_version)) or "none"
        raise RepositoryError(
            f"{repository}: the repository does not hold {version}; it holds {known}"
        )


@contextmanager
def transaction(repository: Path) -> Iterator[Path]:
    """Give a copy of the repository to change; it takes the repository's place on a clean exit.

    The two folders are exchanged in one step of the file system. After an exception, or a kill at
    any moment, the repository is as it was. Files of the copy are hard links, so that what is not
    changed keeps its time stamp and Triton does not load it again: replace files, never write into
    them (`write` does so).
    """
    repository = repository.resolve()
    prefix = f".{repository.name}.change-"
    staging = repository
    try:
        _check_place(repository)
        with _lock(repository):
            for left_by_a_kill in repository.parent.glob(f"{prefix}*"):
                shutil.rmtree(left_by_a_kill, ignore_errors=True)
            staging = Path(tempfile.mkdtemp(prefix=prefix, dir=repository.parent))
            try:
                yield from _change(repository, staging)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except RepositoryError as error:
        # What is told to the user is never the copy's path.
        error.args = (str(error).replace(str(staging / repository.name), str(repository)),)
        raise
    except (ConnectionError, TimeoutError):  # no error of the file system
        raise
    except OSError as error:
        why = error.strerror or str(error)
        raise RepositoryError(f"{repository}: it can't be written: {why}") from None


def _check_place(repository: Path) -> None:
    if repository.exists() and not repository.is_dir():
        raise RepositoryError(f"{repository}: it is a file, and no folder of models")
    if os.path.ismount(repository):
        raise RepositoryError(
            f"{repository}: it is a mount point, which can't be replaced as a whole: mount the "
            "folder above it, or give a folder inside it with --repository"
        )
    repository.parent.mkdir(parents=True, exist_ok=True)


def _change(repository: Path, staging: Path) -> Iterator[Path]:
    tree = staging / repository.name
    tree.mkdir()
    if not repository.exists():
        yield tree
        tree.rename(repository)
        return
    _check_exchange(repository, staging)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(repository, tree, ignore=ignored, copy_function=_link, dirs_exist_ok=True)
    yield tree
    _exchange(tree, repository)


def _check_exchange(repository: Path, staging: Path) -> None:
    """Raise RepositoryError where the two folders could not be exchanged once all work is done."""
    trial = tempfile.mkdtemp(dir=staging)
    _exchange(Path(trial), Path(tempfile.mkdtemp(dir=staging)))
    try:
        # A folder never takes the place of one that is not empty. What else is in the way comes up
        # first: a mount, missing rights, or an overlay's lower layer, whose folders do not move.
        os.rename(repository, staging)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise RepositoryError(_immovable(repository, error.errno)) from None


def _immovable(repository: Path, code: int | None) -> str:
    if code == errno.EXDEV:
        return (
            f"{repository}: it lies in a lower layer of an overlay file system, as in a "
            "container's image, where no folder can be replaced: copy it into a volume, and give "
            "that folder with --repository"
        )
    if code in (errno.EINVAL, errno.ENOSYS):
        return (
            f"{repository}: its file system can't exchange two folders in one step: put the "
            "repository on a local disk with --repository"
        )
    return f"{repository}: it can't be replaced: {os.strerror(code or 0)}"


@contextmanager
def _lock(repository: Path) -> Iterator[None]:
    """Keep other commands from this repository; the lock's file stays, only its lock counts."""
    file = os.open(repository.with_name(f".{repository.name}.lock"), os.O_RDONLY | os.O_CREAT)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RepositoryError(f"{repository}: another command is changing it") from None
        yield
    finally:
        os.close(file)


def write(path: Path, content: bytes) -> None:
    """Put `content` at `path`, leaving a file that holds it already untouched."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)


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
    raise RepositoryError(_immovable(second, ctypes.get_errno()))
