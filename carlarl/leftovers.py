"""What Triton and the gateway leave where they were killed with no time to end in order."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")


def folder_prefix() -> str:
    """Give how the names of this process's temporary folders start."""
    return f"carlarl-triton-{os.getpid()}-"


def segment_prefix(port: int) -> str:
    """Give how the names of the shared memory of this process's Triton on `port` start."""
    return f"carlarl_{os.getpid()}_{port}_"


def sweep() -> None:
    """End and remove what is left of commands that are dead: processes, folders, shared memory."""
    folders = Path(tempfile.gettempdir())
    dead = [path for path in folders.glob("carlarl-triton-*") if _owner_is_dead(path)]
    if dead:
        _end_processes(dead)
    dead += [path for path in folders.glob("carlarl-metrics-*") if _owner_is_dead(path)]
    for path in dead:
        shutil.rmtree(path, ignore_errors=True)
    for path in SHARED_MEMORY.glob("carlarl_*"):
        if _owner_is_dead(path):
            with contextlib.suppress(OSError):
                path.unlink()


def _owner_is_dead(path: Path) -> bool:
    """Whether the process that a name tells of is gone; False where we may not remove it."""
    named = re.match(r"carlarl(?:-triton-|-metrics-|_)(\d+)[-_]", path.name)
    try:
        found = path.lstat()
        if named is None or found.st_uid != os.getuid():
            return False
        # A process that is younger than the file has the number, and not the file.
        return psutil.Process(int(named[1])).create_time() > found.st_mtime + 1
    except psutil.NoSuchProcess:
        return True
    except (OSError, psutil.Error):
        return False


def _end_processes(folders: list[Path]) -> None:
    """End the Tritons and the Python models that run from `folders`."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if any(
                command[:1] == [str(folder / "python" / "triton_python_backend_stub")]
                or f"--backend-directory={folder}" in command
                for folder in folders
            ):
                process.kill()
