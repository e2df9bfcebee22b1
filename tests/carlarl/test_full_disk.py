"""A disk that takes no more: the command says so, and the repository is as it was."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack import ROOT, clean_environment

COMMANDS = (
    ("promote", "v0.1.0", "--offline"),
    ("export", "--version", "v0.1.0", "--formats", "onnx"),
)


def no_room() -> None:
    """Let the kernel refuse what this process writes beyond a few bytes, as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_nothing_is_changed(tmp_path: Path, command: tuple[str, ...]) -> None:
    target = tmp_path / "model_repository"
    if command[0] == "promote":
        shutil.copytree(ROOT / "model_repository", target)
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    done = subprocess.run(
        [sys.executable, "-m", "carlarl", *command, "--repository", str(target)],
        cwd=ROOT,
        env=clean_environment() | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        preexec_fn=no_room,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "File too large" in done.stderr
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before
    assert not list(tmp_path.glob(".model_repository.change-*"))
