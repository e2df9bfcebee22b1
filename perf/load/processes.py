"""The servers that are measured, as child processes on free ports."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil

from perf.load.generator import LoadError

ROOT = Path(__file__).parents[2]
ALONE = {"HOST": "127.0.0.1", "TRITON_URL": "", "API_KEYS_FILE": ""}
"""Settings of a stack that nobody else asks, whatever the environment says."""
PORTS = ("PORT", "TRITON_HTTP_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT")
END_S = 20
LOG_LINES = 12


class StartError(LoadError):
    """A server did not start; the text has the end of its log."""


@contextmanager
def server(
    command: Sequence[str],
    is_ready: Callable[[], bool],
    environment: Mapping[str, str],
    folder: Path = ROOT,
    patience_s: float = 60,
) -> Iterator[int]:
    """Run a server in `folder` until the block ends; gives its process id once it is ready.

    Nothing that it started outlives it. Raises StartError where it ends or takes too long.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C ends a benchmark, which then ends its servers
        )
        try:
            deadline = time.monotonic() + patience_s
            while not is_ready():
                status = process.poll()
                if status is not None or time.monotonic() > deadline:
                    log.seek(0)
                    said = "\n".join(log.read().strip().splitlines()[-LOG_LINES:])
                    ended = f"gave no answer in {patience_s:g} s"
                    ended = ended if status is None else f"ended with status {status}"
                    raise StartError(f"{' '.join(command)} {ended}: {said or 'it said nothing'}")
                time.sleep(0.02)
            yield process.pid
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    tree: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        tree = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for left in psutil.wait_procs(tree, timeout=2)[1]:
        with suppress(psutil.NoSuchProcess):
            left.kill()


class Served(NamedTuple):
    """A running `carlarl serve`: the gateway's URL, its process id, where its Triton listens."""

    url: str
    pid: int
    http: str
    """`host:port` of Triton's HTTP, and so on."""
    grpc: str


@contextmanager
def gateway(path: str = "/readyz", **variables: str) -> Iterator[Served]:
    """Run `carlarl serve` on free ports; it is ready once `path` answers 200. Raises StartError."""
    ports = free_ports(4)
    command = [sys.executable, "-m", "carlarl", "serve", "--formats", "onnx"]
    environment = os.environ | dict(zip(PORTS, map(str, ports), strict=True)) | variables
    at, http, grpc = (f"127.0.0.1:{port}" for port in ports[:3])
    with server(command, lambda: answers(f"http://{at}{path}"), environment) as pid:
        yield Served(f"http://{at}", pid, http, grpc)


def settings() -> dict[str, str]:
    """Return the settings that are not the defaults, as `carlarl config` shows them."""
    command = [sys.executable, "-m", "carlarl", "config", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise StartError(done.stderr.strip())
    found = json.loads(done.stdout).items()
    return {k.upper(): str(v["value"]) for k, v in found if v["source"] != "default"}


@contextmanager
def plain_alternative() -> Iterator[str]:
    """Run FastAPI with ONNX Runtime, one worker of a peer in this environment; gives its URL."""
    (port,) = free_ports(1)
    url, repository = f"http://127.0.0.1:{port}", Path("model_repository")
    command = [sys.executable, "-m", "uvicorn", "perf.studies.peers.fastapi_app:app"]
    command += [f"--port={port}", "--loop=uvloop", "--http=httptools", "--no-access-log"]
    files = {
        "MODEL": str(repository / "policy_onnx-v0.2.0" / "2000" / "model.onnx"),
        "PREPROCESSING": str(repository / "preprocess-v0.2.0" / "2000" / "preprocessing.json"),
    }
    with server(command, lambda: answers(f"{url}/openapi.json"), os.environ | files):
        yield url


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def answers(url: str) -> bool:
    """Whether a GET of `url` is answered 200."""
    try:
        return httpx.get(url, timeout=1, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
