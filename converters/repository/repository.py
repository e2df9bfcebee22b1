"""The model repository on disk: read, and changed as a whole or not at all."""

import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converters.artifact.versions import triton_version
from converters.errors import ConversionError
from converters.repository import configs

_VERSION = re.compile(rf"{configs.ALIAS}-v\d+\.\d+\.\d+", re.ASCII)
"""The name of a version's ensemble. A user's own models have other names."""

_FORMS = "onnx|torchscript|tensorrt"
_MODEL = re.compile(
    rf"({configs.ALIAS}(_({configs.FUSED}|{_FORMS}))?|preprocess|policy_({_FORMS}))-"
    r"(?P<version>v\d+\.\d+\.\d+)",
    re.ASCII,
)
"""The name of a version's model. A user's own models have other names."""
_SHARED = re.compile(rf"(preprocess|policy_({_FORMS}))(_s\d+a\d+)?")
"""The names of models that versions share in a repository of an earlier release."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class RepositoryError(ConversionError):
    """A repository can't be read or written."""


def read_config(repository: Path, model: str) -> Any:
    """Read a model's config; raise RepositoryError if it is missing or damaged."""
    path = repository / model / "config.pbtxt"
    try:
        return configs.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RepositoryError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise RepositoryError(
            f"{path}: no Triton model config: {error}; remove its folder, and `carlarl export` it"
        ) from None


def active_version(repository: Path) -> str | None:
    """Return the version that the alias ensemble serves, or None if there is no alias."""
    if not (repository / configs.ALIAS / "config.pbtxt").exists():
        return None
    version: str = read_config(repository, configs.ALIAS).parameters["version"].string_value
    return version


def flavour(repository: Path) -> str | None:
    """Return the repository's flavour: `python`, `native`, or None if it is empty."""
    for version in held(repository):
        with suppress(RepositoryError):
            parameters = read_config(repository, configs.ensemble_name(version)).parameters
            return parameters["flavour"].string_value if "flavour" in parameters else "python"
    return None


@dataclass(frozen=True)
class Version:
    """One version in the repository, read from its ensemble's config.

    Attributes:
        damaged: why it can't be served, if that was found.
        loaded: whether a server has it loaded; None where none was asked.
    """

    version: str
    active: bool
    formats: tuple[str, ...] = ()
    digest: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    damaged: str | None = None
    loaded: bool | None = None


def versions(repository: Path) -> list[Version]:
    """Return the versions of the repository, oldest first, damaged ones with `damaged`."""
    active = active_version(repository)
    return [_version(repository, version, active) for version in held(repository)]


def held(repository: Path) -> list[str]:
    """Return the versions of the repository, oldest first; raise RepositoryError without one."""
    try:
        names = [path.name for path in repository.iterdir() if _VERSION.fullmatch(path.name)]
    except OSError:
        raise RepositoryError(
            f"{repository}: no such model repository; `carlarl export` makes one"
        ) from None
    return sorted((name.removeprefix(f"{configs.ALIAS}-") for name in names), key=triton_version)


def _version(repository: Path, version: str, active: str | None) -> Version:
    name = configs.ensemble_name(version)
    try:
        parameters = read_config(repository, name).parameters
        told = {key: entry.string_value for key, entry in parameters.items()}
        metrics = json.loads(told["model_card"]).get("performance_metrics", {})
        formats, digest = tuple(told["formats"].split(",")), told["artifact_digest"]
        return Version(version, version == active, formats, digest, metrics)
    except RepositoryError as error:
        fault = str(error)
    except (KeyError, ValueError, AttributeError, RecursionError) as error:
        fault = (
            f"{repository / name}: it does not say what an export writes ({error!r}); remove "
            "the folder, and `carlarl export` it"
        )
    return Version(version, version == active, damaged=fault)


def check_held(repository: Path, version: str, coming: Collection[str] = ()) -> None:
    """Raise RepositoryError if `repository` does not hold `version` and it is not `coming`."""
    if version not in (found := {*held(repository), *coming}):
        known = ", ".join(sorted(found, key=triton_version)) or "none"
        raise RepositoryError(
            f"{repository}: the repository does not hold {version}; it holds {known}"
        )


def version_of(model: str) -> str | None:
    """Return the version of which a model is, from its name; None for the alias and others."""
    found = _MODEL.fullmatch(model)
    return found and found["version"]


def shared(repository: Path) -> list[str]:
    """Return the names of the models that versions share, as in a repository of old."""
    return [path.name for path in repository.iterdir() if _SHARED.fullmatch(path.name)]


def remove_version(tree: Path, version: str, keep: Collection[Path] = ()) -> None:
    """Remove the models of a version from the repository in `tree`, except those in `keep`."""
    number = str(triton_version(version))
    for path in [path for path in tree.iterdir() if path.is_dir() and path not in keep]:
        if _SHARED.fullmatch(path.name):
            shutil.rmtree(path / number, ignore_errors=True)
            if any(child.is_dir() for child in path.iterdir()):
                continue
        elif version_of(path.name) != version:
            continue
        shutil.rmtree(path)


@contextmanager
def transaction(
    repository: Path, confirm: Callable[[], None] = lambda: None, *, only: str | None = None
) -> Iterator[Path]:
    """Yield a copy of the repository to change. On a clean exit it replaces the repository.

    The two folders are exchanged in one step of the file system. After an exception, or a kill at
    any moment, the repository is as it was. `confirm` is called after the exchange: if it raises,
    the old repository is put back. Files of the copy are hard links: replace a file, never write
    into it (`write` does so).

    With `only`, just the folder of that model is copied, yielded and exchanged. Triton loads again
    every model whose files have new links; so it leaves the other models alone.
    """
    repository = repository.resolve()
    place = repository if only is None else repository / only
    prefix = f".{repository.name}.change-"
    staging = repository
    try:
        _check_place(repository, only)
        beside = _staging_place(repository, only)
        with _lock(repository, beside):
            for left_by_a_kill in beside.glob(f"{prefix}*"):
                shutil.rmtree(left_by_a_kill, ignore_errors=True)
            staging = Path(tempfile.mkdtemp(prefix=prefix, dir=beside))
            try:
                yield from _change(place, staging, confirm)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except RepositoryError as error:
        # The user never sees the path of the copy.
        error.args = (str(error).replace(str(staging / place.name), str(place)),)
        raise
    except (ConnectionError, TimeoutError):  # not an error of the file system
        raise
    except OSError as error:
        why = error.strerror or str(error)
        raise RepositoryError(f"{repository}: it can't be written: {why}") from None


def _check_place(repository: Path, only: str | None) -> None:
    if repository.exists() and not repository.is_dir():
        raise RepositoryError(f"{repository}: it is a file, and no folder of models")
    if only is None and _is_mount(repository):
        raise RepositoryError(
            f"{repository}: it is a mount point, which can't be replaced as a whole: mount the "
            "folder above it, or give a folder inside it with --repository"
        )
    shown = list(repository.glob("[!.]*"))
    if only is None and shown and not any((path / "config.pbtxt").is_file() for path in shown):
        raise RepositoryError(
            f"{repository}: it is no model repository, as nothing in it has a config.pbtxt: give "
            "an empty folder, or one that is not there yet, with --repository"
        )
    if only is None:
        repository.parent.mkdir(parents=True, exist_ok=True)
    elif not repository.is_dir():
        raise RepositoryError(f"{repository}: no such model repository; `carlarl export` makes one")


def _staging_place(repository: Path, only: str | None) -> Path:
    """Return the folder to prepare a change in: beside the repository, or inside a mount."""
    mounted = repository.exists() and _is_mount(repository)
    return repository if only is not None and mounted else repository.parent


def _is_mount(path: Path) -> bool:
    """Whether `path` is a mount, also of the same file system, as in containers."""
    if os.path.ismount(path):
        return True
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    escaped = re.sub(rb"[ \t\n\\]", lambda found: b"\\%03o" % ord(found[0]), os.fsencode(path))
    return any(line.split(b" ")[4] == escaped for line in mounts)


def _change(place: Path, staging: Path, confirm: Callable[[], None]) -> Iterator[Path]:
    tree = staging / place.name
    if new := not place.exists():
        tree.mkdir()
    else:
        _check_exchange(place, staging)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(place, tree, symlinks=True, ignore=ignored, copy_function=_link)
    yield tree
    if new:
        tree.rename(place)
    else:
        _exchange(tree, place)
    try:
        confirm()
    except BaseException:
        if new:
            place.rename(tree)
        else:
            _exchange(tree, place)
        raise


def _check_exchange(place: Path, staging: Path) -> None:
    """Raise RepositoryError early if the two folders can't be exchanged later."""
    trials = [Path(tempfile.mkdtemp(dir=staging)) for _ in range(2)]
    code = _rename_exchange(*trials)
    if code != 0:
        raise RepositoryError(_immovable(place, code))
    try:
        # This always fails, since `staging` is not empty. Another obstacle is reported first: a
        # mount, missing rights, or the lower layer of an overlay, whose folders can't be moved.
        os.rename(place, staging)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise RepositoryError(_immovable(place, error.errno)) from None


def _immovable(place: Path, code: int | None) -> str:
    if code == errno.EXDEV:
        return (
            f"{place}: it lies in a lower layer of an overlay file system, as in a "
            "container's image, where no folder can be replaced: copy it into a volume, and give "
            "that folder with --repository"
        )
    if code in (errno.EINVAL, errno.ENOSYS):
        return (
            f"{place}: its file system can't exchange two folders in one step: put the "
            "repository on a local disk with --repository"
        )
    return f"{place}: it can't be replaced: {os.strerror(code or 0)}"


@contextmanager
def _lock(repository: Path, beside: Path) -> Iterator[None]:
    """Keep other commands away from this repository. The lock's file stays; only its lock counts.

    A mount, where changes are prepared inside, is locked itself: its parent may be read-only.
    """
    if beside == repository:
        file = os.open(repository, os.O_RDONLY)
    else:
        file = os.open(
            repository.with_name(f".{repository.name}.lock"), os.O_RDONLY | os.O_CREAT, 0o666
        )
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RepositoryError(f"{repository}: another command is changing it") from None
        yield
    finally:
        os.close(file)


def write(path: Path, content: bytes) -> None:
    """Replace the file at `path`, unless it already holds `content`."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def write_ensemble(tree: Path, name: str, config: str) -> None:
    """Write an ensemble into the repository in `tree`."""
    write(tree / name / "config.pbtxt", config.encode())
    # Triton needs a version's folder, and git keeps no empty one.
    write(tree / name / "1" / ".gitkeep", b"")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def _exchange(first: Path, second: Path) -> None:
    code = _rename_exchange(first, second)
    if code != 0:
        raise RepositoryError(_immovable(second, code))


def _rename_exchange(first: Path, second: Path) -> int:
    """Exchange two folders in one step. Return the error's number, or 0 on success."""
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return ctypes.get_errno() if libc.renameat2(*arguments) != 0 else 0
