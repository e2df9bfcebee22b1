"""Each peer's own virtual environment, and its server as a child process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil

from perf.load.observations import body
from perf.load.processes import free_ports
from perf.studies.peers.systems import Peer, Place

CACHE = Path("~/.cache/carlarl/peers").expanduser()
START_S = 120
END_S = 20
LOG_LINES = 3


class PeerError(Exception):
    """A peer can't be installed, started or trusted; the text says why."""


def install(peer: Peer, cache: Path = CACHE) -> Path:
    """Give the folder of the peer's environment, made where it is not there; raises PeerError."""
    folder = cache / peer.name
    note = folder / "carlarl-requirements.txt"
    wanted = "\n".join(
        [f"# Python {sys.version_info[0]}.{sys.version_info[1]}", *peer.requirements]
    )
    if note.is_file() and note.read_text() == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-cache-dir"]
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [*pip, "--disable-pip-version-check", *peer.requirements],
    ):
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise PeerError(f"can't be installed: {_end(done.stderr or done.stdout)}")
    note.write_text(wanted)
    return folder


@contextmanager
def running(peer: Peer, environment: Path) -> Iterator[str]:
    """Run a peer until the block ends; gives its URL once it predicts. Raises PeerError.

    It runs in a folder of its own, which is removed, and nothing that it started outlives it.
    """
    port, *others = free_ports(3)
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="carlarl-", ignore_cleanup_errors=True) as folder:
        place = Place(port, (others[0], others[1]), Path(folder))
        program, *arguments = peer.command(place)
        log = place.folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(environment / "bin" / program), *arguments],
                cwd=folder,
                env=_variables(environment) | {"TMPDIR": folder} | peer.environment(place),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + START_S
            while not _predicts(url):
                if process.poll() is not None:
                    said = _end(log.read_text(errors="replace"))
                    raise PeerError(f"ended with status {process.returncode}: {said}")
                if time.monotonic() > deadline:
                    said = _end(log.read_text(errors="replace"))
                    raise PeerError(f"gave no answer in {START_S} s: {said}")
                time.sleep(0.1)
            yield url
        finally:
            _end_all(process)


def _variables(environment: Path) -> dict[str, str]:
    """Give the environment variables of this process, without those that choose a Python."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return kept | {"PATH": f"{environment / 'bin'}:{os.environ.get('PATH', '')}"}


def _predicts(url: str) -> bool:
    try:
        answer = httpx.post(f"{url}/predict", json=body(), timeout=5, trust_env=False)
    except httpx.TransportError:
        return False
    return answer.status_code == 200


def _end_all(process: subprocess.Popen[bytes]) -> None:
    with suppress(psutil.NoSuchProcess):
        tree = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
        _, alive = psutil.wait_procs(tree, timeout=2)
        for left in alive:
            with suppress(psutil.NoSuchProcess):
                left.kill()
        psutil.wait_procs(alive, timeout=5)
    process.wait()


def _end(text: str) -> str:
    """Give the last lines of what was said, as one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join(lines[-LOG_LINES:]) or "it said nothing"
