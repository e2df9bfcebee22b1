"""A repository is changed as a whole or not at all, and says beforehand where it can't be."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converters.repository import repository
from converters.repository.repository import RepositoryError, transaction


@pytest.fixture
def target(tmp_path: Path) -> Path:
    with transaction(tmp_path / "repository") as tree:
        repository.write(tree / "model" / "config.pbtxt", b"first")
    return tmp_path / "repository"


def _content(target: Path) -> bytes:
    return (target / "model" / "config.pbtxt").read_bytes()


def _change(target: Path) -> None:
    with transaction(target) as tree:
        repository.write(tree / "model" / "config.pbtxt", b"second")


class _Answering:
    """A C library whose renameat2 fails, as on a file system that can't exchange."""

    def __init__(self, code: int) -> None:
        self.code = code

    def renameat2(self, *arguments: Any) -> int:
        ctypes.set_errno(self.code)
        return -1


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS])
def test_a_file_system_that_can_not_exchange(
    target: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: _Answering(code))
    reached = []
    with (
        pytest.raises(RepositoryError, match="can't exchange two folders in one step: put"),
        transaction(target) as tree,
    ):
        reached.append(tree)
    assert not reached, "it is told before any work"
    assert _content(target) == b"first"


def test_a_folder_that_does_not_move(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the folders of a container's image do not."""

    def rename(source: Any, _: Any) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(RepositoryError, match="overlay file system.*: copy it"):
        _change(target)
    assert _content(target) == b"first"


def test_a_mount_point() -> None:
    with pytest.raises(RepositoryError, match="/proc: it is a mount point, .* --repository"):
        _change(Path("/proc"))


def test_killed_at_any_moment_the_repository_is_there(target: Path) -> None:
    """A child changes it over and over, and is killed."""
    program = (
        "import sys; from pathlib import Path; from converters.repository import repository\n"
        "target = Path(sys.argv[1]); print('go', flush=True)\n"
        "for turn in range(10**6):\n"
        "    with repository.transaction(target) as tree:\n"
        "        repository.write(tree / 'model' / 'config.pbtxt', f'turn {turn}'.encode())"
    )
    for pause in range(5):
        command = [sys.executable, "-c", program, str(target)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            for _ in range(100 * pause):
                assert target.is_dir()
            child.send_signal(signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL  # it did not end by itself
        assert _content(target)
    _change(target)
    assert _content(target) == b"second"


def test_one_command_at_a_time_for_one_repository(target: Path) -> None:
    with (
        transaction(target),
        pytest.raises(RepositoryError, match="another command is changing it"),
        transaction(target),
    ):
        pass
    with transaction(target), transaction(target.with_name("another")) as tree:
        repository.write(tree / "model" / "config.pbtxt", b"beside")
    assert _content(target.with_name("another")) == b"beside"


def test_a_blocked_call_within_a_change_is_not_taken_for_the_lock(target: Path) -> None:
    with pytest.raises(RepositoryError, match="it can't be written: busy"), transaction(target):
        raise BlockingIOError(errno.EAGAIN, "busy")
    with pytest.raises(ConnectionError, match="Triton"), transaction(target):
        raise ConnectionError("Triton is away")
    assert _content(target) == b"first"


def _a_file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (_a_file, "file: it is a file, and no folder"),
        (lambda folder: _a_file(folder) / "repository", "it can't be written: "),
        (lambda folder: Path("/proc/repository"), "it can't be written: "),
        (lambda folder: folder / ("long" * 100), "it can't be written: File name too long"),
    ],
)
def test_a_place_where_none_can_be(
    tmp_path: Path, place: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(RepositoryError, match=message):
        _change(place(tmp_path))


def test_a_folder_that_is_no_repository_stays(tmp_path: Path) -> None:
    folder = _a_file(tmp_path).parent
    (tmp_path / "artifacts").mkdir()
    with pytest.raises(RepositoryError, match=r"no model repository, as nothing .* config\.pbtxt"):
        _change(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["artifacts", "file"]


def test_links_stay_links(target: Path) -> None:
    (target.parent / "elsewhere").mkdir()
    (target / "linked").symlink_to(target.parent / "elsewhere")
    _change(target)
    assert (target / "linked").readlink() == target.parent / "elsewhere"


def test_an_ensemble_of_the_users_own_is_no_version(target: Path) -> None:
    # Nor is one of another kind read at all: `target` holds a config that no Triton would take.
    for name in ("carla_policy-mine", "carla_policy-v0.1.0"):
        assert repository.versions(target) == []
        repository.write_ensemble(target, name, 'platform: "ensemble"')
    (one,) = repository.versions(target)
    assert one.damaged is not None
    assert "policy-v0.1.0: it does not say what an export" in one.damaged


def test_what_is_told_names_the_repository_not_its_copy(target: Path) -> None:
    with pytest.raises(RepositoryError) as told, transaction(target) as tree:
        repository.read_config(tree, "missing")
    assert str(told.value).startswith(f"{target / 'missing' / 'config.pbtxt'}: ")
