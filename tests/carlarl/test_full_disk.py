"""A disk that takes no more: the command says so, and the repository is as it was."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from converters.repository import repository
from converters.repository.preflight import check_files
from gateway.observability.workers import MULTIPROCESS_DIR
from tests.gateway.processes import predict
from tests.stack import ROOT, clean_environment, free_ports, running_stack

PROMOTE = ("promote", "v0.1.0", "--offline")
EXPORT = ("export", "--version", "v0.1.0", "--formats", "onnx")
DISK_BYTES = 2 << 20

Files = dict[Path, bytes]


def no_room() -> None:
    """Let the kernel refuse what this process writes beyond a few bytes, as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))


def run(
    command: tuple[str, ...], target: Path, before_it: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "carlarl", *command, "--repository", str(target)],
        cwd=ROOT,
        env=clean_environment() | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        preexec_fn=before_it,
    )


def files(target: Path) -> Files:
    return {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}


def check_refused(done: subprocess.CompletedProcess[str], target: Path, before: Files) -> None:
    """Check that nothing was changed, and that the command says why."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert files(target) == before
    assert not list(target.parent.glob(".model_repository.change-*"))


@pytest.mark.parametrize("command", [PROMOTE, EXPORT], ids=lambda command: command[0])
def test_nothing_is_changed_where_files_may_not_grow(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    target = tmp_path / "model_repository"
    if command is PROMOTE:
        shutil.copytree(ROOT / "model_repository", target)
    before = files(target)
    done = run(command, target, no_room)
    check_refused(done, target, before)
    assert "File too large" in done.stderr


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    done = subprocess.run(["mount", *options], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a disk of its own can't be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own, with a copy of the default repository."""
    if shutil.which("mount") is None or os.getuid() != 0:
        pytest.skip("a disk of its own can be mounted by root alone")
    with mounted(tmp_path):
        shutil.copytree(ROOT / "model_repository", tmp_path / "model_repository")
        yield tmp_path


def fill(disk: Path) -> Path:
    """Take all the room that is left."""
    with pytest.raises(OSError, match="No space left"):
        (disk / "filler").write_bytes(b"x" * DISK_BYTES)
    return disk / "filler"


@pytest.mark.reliability
@pytest.mark.parametrize("command", [PROMOTE, EXPORT], ids=lambda command: command[0])
def test_a_full_disk_is_told_and_survived(disk: Path, command: tuple[str, ...]) -> None:
    target = disk / "model_repository"
    before = files(target)
    filler = fill(disk)
    done = run(command, target)
    check_refused(done, target, before)
    assert "No space left on device" in done.stderr
    for version in repository.versions(target):
        check_files(target, version.version)
    filler.unlink()
    assert run(command, target).returncode == 0  # as soon as there is room


@pytest.mark.reliability
def test_a_new_repository_finds_no_room(disk: Path) -> None:
    fill(disk)
    target = disk / "other"
    done = run(EXPORT, target)
    check_refused(done, target, {})
    assert "No space left on device" in done.stderr
    assert {path.name for path in disk.iterdir()} <= {"model_repository", "filler", ".other.lock"}


@pytest.mark.parametrize("command", [PROMOTE, EXPORT], ids=lambda command: command[0])
def test_a_read_only_disk_is_told(disk: Path, command: tuple[str, ...]) -> None:
    target = disk / "model_repository"
    before = files(target)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    done = run(command, target)
    check_refused(done, target, before)
    assert "Read-only file system" in done.stderr


@pytest.mark.reliability
def test_a_repository_on_a_full_read_only_disk_is_served(disk: Path) -> None:
    fill(disk)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with running_stack(MODEL_REPOSITORY=str(disk / "model_repository")) as stack:
        assert predict(stack.gateway_url).status_code == 200


def test_workers_without_room_for_their_metrics_do_not_start(disk: Path) -> None:
    fill(disk)
    done = subprocess.run(
        [sys.executable, "-m", "gateway"],
        cwd=ROOT,
        env=clean_environment()
        | {"PORT": str(free_ports(1)[0]), "WORKERS": "2", MULTIPROCESS_DIR: str(disk)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert f"{MULTIPROCESS_DIR}={disk}: must have room" in done.stderr
    assert "Traceback" not in done.stderr
