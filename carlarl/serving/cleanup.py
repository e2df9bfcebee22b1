"""What `carlarl serve` keeps in shared memory: its folder, and the removal of it."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from carlarl.errors import CommandError
from gateway.inference import damaged

SHARED_MEMORY = Path("/dev/shm")
"""Triton needs it. It also holds the folders of services: Triton starts a Python model through a
shell, so that no path that it gets may have a space or a quote, as a temporary folder's may."""
OWNER = damaged.FOLDER
"""Variable of a service's processes: the service's folder."""


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """Remove what killed services left; then give a new folder, which the end of the block removes.

    The folder is locked while this process lives, so that `sweep` leaves it alone, whatever
    namespace of processes that runs in. Raises CommandError if it can't be made.
    """
    sweep()
    try:
        made = Path(tempfile.mkdtemp(prefix=f".carlarl-{os.getpid()}-", dir=SHARED_MEMORY))
        lock = _locked(made)
        folder = made.rename(made.with_name(made.name[1:]))  # nobody sees it without its lock
    except OSError as error:
        raise CommandError(f"{SHARED_MEMORY}: can't be written to: {error.strerror}") from None
    try:
        yield folder
    finally:
        _remove(folder)
        os.close(lock)


def sweep() -> None:
    """End and remove what killed services of this user left: processes, folders, shared memory."""
    for folder in SHARED_MEMORY.glob("carlarl-*"):
        with contextlib.suppress(OSError):  # it lives, is another user's, or is a segment
            if folder.lstat().st_uid == os.getuid():
                lock = _locked(folder)
                _end_processes(folder)
                _remove(folder)
                os.close(lock)


def remove_segments(folder: Path) -> None:
    """Remove the shared memory of the Triton of the service that has this folder."""
    for segment in SHARED_MEMORY.glob(f"{folder.name}_*"):
        segment.unlink(missing_ok=True)


def living() -> Iterator[Path]:
    """Yield the folders of services that live: of this user, for root of any."""
    for folder in SHARED_MEMORY.glob("carlarl-*"):
        with contextlib.suppress(OSError):  # it is a segment, or has gone
            if os.getuid() not in (0, folder.lstat().st_uid):
                continue
            try:
                os.close(_locked(folder, fcntl.LOCK_SH))
            except BlockingIOError:
                yield folder


def _locked(folder: Path, kind: int = fcntl.LOCK_EX) -> int:
    """Return an open file that locks `folder`. Raises BlockingIOError if its service lives."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise
    return file


def _remove(folder: Path) -> None:
    remove_segments(folder)
    shutil.rmtree(folder, ignore_errors=True)


def _end_processes(folder: Path) -> None:
    """End the processes of a dead service and wait until they are gone, and with them its ports."""
    ended = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(OWNER) == str(folder):
                process.kill()
                ended.append(process)
    psutil.wait_procs(ended, timeout=5)
