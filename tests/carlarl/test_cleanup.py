"""What a killed `carlarl serve` left is swept; what a living one uses stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from carlarl.errors import CommandError
from carlarl.serving import cleanup

KILLED = """
import os
from carlarl.serving import cleanup
with cleanup.own_folder() as folder:
    print(folder)
    os._exit(9)
"""


def sleeper(folder: Path) -> subprocess.Popen[bytes]:
    """A process of the service that has this folder."""
    return subprocess.Popen(["sleep", "60"], env=os.environ | {cleanup.OWNER: str(folder)})


def segment(folder: Path) -> Path:
    path = folder.with_name(f"{folder.name}_test")
    path.write_bytes(b"x")
    return path


@pytest.fixture
def killed() -> Iterator[Path]:
    """The folder of a service that ended without cleaning up."""
    code = [sys.executable, "-c", KILLED]
    folder = Path(subprocess.run(code, capture_output=True, text=True).stdout.strip())
    assert folder.is_dir()
    yield folder
    cleanup.sweep()


def test_sweep(killed: Path) -> None:
    with cleanup.own_folder() as own:  # it sweeps, too
        assert not killed.exists()
        assert own.is_dir()
        cleanup.sweep()
        assert own.is_dir()
    assert not own.exists()


def test_processes_and_segments_go_with_their_folder(killed: Path) -> None:
    left, segments = sleeper(killed), [segment(killed)]
    left.send_signal(signal.SIGSTOP)  # it would not heed a request to end
    other = cleanup.SHARED_MEMORY / "carlarl-no-folder_test"
    other.write_bytes(b"x")
    with cleanup.own_folder() as own:
        used = sleeper(own)
        segments.append(segment(own))
        cleanup.sweep()
        assert not psutil.pid_exists(left.pid)
        assert used.poll() is None
        assert [path.exists() for path in segments] == [False, True]
        used.kill()
        used.wait()
    left.wait()
    assert not segments[1].exists()
    other.unlink()


def test_a_folder_that_can_not_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleanup, "SHARED_MEMORY", tmp_path / "none")
    with pytest.raises(CommandError, match=r"none: can't be written to: No such file"):
        cleanup.own_folder().__enter__()
