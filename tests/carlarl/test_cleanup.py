"""What a killed `carlarl serve` left is swept; what a living one uses stays."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from carlarl.serving import cleanup


@pytest.fixture
def dead() -> int:
    """Number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def segments(dead: int) -> Iterator[tuple[Path, Path]]:
    """Shared memory of a dead process, and of this one."""
    paths = [cleanup.SHARED_MEMORY / f"carlarl_{pid}_1_test" for pid in (dead, os.getpid())]
    for path in paths:
        path.write_bytes(b"x")
    yield paths[0], paths[1]
    for path in paths:
        path.unlink(missing_ok=True)


def test_sweep(
    dead: int, segments: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, own = tmp_path / f"carlarl-triton-{dead}-x", Path(_own_folder())
    unnamed = tmp_path / "carlarl-triton-abc"
    for folder in (left, own, unnamed):
        (folder / "python").mkdir(parents=True)
        (folder / "python" / "triton_python_backend_stub").symlink_to("/bin/sleep")
    stubs = [
        subprocess.Popen([folder / "python" / "triton_python_backend_stub", "60"])
        for folder in (left, own)
    ]
    try:
        cleanup.sweep()
        assert stubs[0].wait(timeout=10) == -9
        assert stubs[1].poll() is None
    finally:
        for stub in stubs:
            stub.kill()
            stub.wait()
    assert sorted(tmp_path.iterdir()) == sorted([own, unnamed])
    assert [path.exists() for path in segments] == [False, True]


def _own_folder() -> str:
    return tempfile.mkdtemp(prefix=cleanup.folder_prefix())


def test_a_number_that_another_process_has_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = Path(_own_folder())
    os.utime(folder, (1, 1))
    cleanup.sweep()
    assert not folder.exists()
