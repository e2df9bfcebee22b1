"""Temporary files and shared memory of Triton and the gateway: names, secrets, and cleanup."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import psutil

SHARED_MEMORY = Path("/dev/shm")


def folder_prefix() -> str:
    """Return the start of the names of this process's temporary folders."""
    return f"carlarl-triton-{os.getpid()}-"


def segment_prefix(port: int) -> str:
    """Return the start of the names of the shared memory of this process's Triton on `port`."""
    return f"carlarl_{os.getpid()}_{port}_"


def keep_secret(folder: Path, http: int, grpc: int, secret: str) -> None:
    """Write the secret of the Triton on these ports into its folder, for this user alone."""
    file = os.open(folder / f"secret-{http}-{grpc}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w") as target:
        target.write(secret)


def secret_at(url: str) -> str | None:
    """Return the secret of the Triton at `url` if a command of this user runs it, else None.

    For root, any user's command counts.
    """
    file = _secret_file(url)
    with contextlib.suppress(OSError):
        return None if file is None else file.read_text()
    return None


def grpc_port_at(url: str) -> int | None:
    """Return the gRPC port of the Triton at `url`, found as `secret_at` finds its secret."""
    file = _secret_file(url)
    return None if file is None else int(file.name.rpartition("-")[2])


def sweep() -> None:
    """Remove what dead commands left behind: processes, folders and shared memory."""
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


def _secret_file(url: str) -> Path | None:
    address = urlsplit(url)
    if address.hostname not in ("127.0.0.1", "localhost"):
        return None
    for path in Path(tempfile.gettempdir()).glob(f"carlarl-triton-*/secret-{address.port}-*"):
        with contextlib.suppress(OSError):
            ours = path.lstat().st_uid == os.getuid() or os.getuid() == 0
            if ours and not path.is_symlink() and not _owner_is_gone(path.parent):
                return path
    return None


def _owner_is_dead(path: Path) -> bool:
    """Whether the process in a name is gone; False if this user may not remove the file."""
    try:
        return path.lstat().st_uid == os.getuid() and _owner_is_gone(path)
    except OSError:
        return False


def _owner_is_gone(path: Path) -> bool:
    named = re.match(r"carlarl(?:-triton-|-metrics-|_)(\d+)[-_]", path.name)
    if named is None:
        return False
    try:
        found = path.lstat()
        # A process that is younger than the file only got the same number.
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
