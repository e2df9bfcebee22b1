"""Each peer's own virtual environment, and its server as a child process."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from perf.load.generator import LoadError
from perf.load.observations import body
from perf.load.processes import free_ports, server
from perf.studies.peers.systems import Peer

CACHE = Path("~/.cache/carlarl/peers").expanduser()
START_S = 120


def install(peer: Peer, cache: Path = CACHE) -> Path:
    """Give the folder of the peer's environment, made where it is not there. Raises LoadError."""
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
            said = " ".join((done.stderr or done.stdout).split())
            raise LoadError(f"can't be installed: {said[-300:]}")
    note.write_text(wanted)
    return folder


@contextmanager
def running(peer: Peer, environment: Path) -> Iterator[str]:
    """Run a peer, in a folder of its own, until the block ends; gives its URL once it predicts.

    Raises LoadError.
    """
    places: dict[str, object] = dict(zip(("port", "second", "third"), free_ports(3), strict=True))
    url = f"http://127.0.0.1:{places['port']}"
    with tempfile.TemporaryDirectory(prefix="carlarl-", ignore_cleanup_errors=True) as folder:
        places |= {"folder": folder, "cores": os.cpu_count()}
        program, *arguments = shlex.split(peer.command.format_map(places))
        kept = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
        path = f"{environment / 'bin'}:{os.environ.get('PATH', '')}"
        variables = kept | {"PATH": path, "TMPDIR": folder} | peer.environment(places)
        command = [str(environment / "bin" / program), *arguments]
        with server(command, lambda: _predicts(url), variables, Path(folder), START_S):
            yield url


def _predicts(url: str) -> bool:
    try:
        answer = httpx.post(f"{url}/predict", json=body(), timeout=5, trust_env=False)
    except httpx.TransportError:
        return False
    return answer.status_code == 200
