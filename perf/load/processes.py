"""The servers that are measured, as child processes on free ports."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx

from gateway.settings import Settings

ROOT = Path(__file__).parents[2]
ALONE = {"HOST": "127.0.0.1", "TRITON_URL": "", "API_KEYS_FILE": ""}
"""Settings of a stack that nobody else asks, whatever the environment says."""


class StartError(Exception):
    """A server did not start; the text has its log."""


@contextmanager
def server(command: list[str], path: str, port: int, **variables: str) -> Iterator[tuple[str, int]]:
    """Run a server until the block ends; gives its URL and process id once `path` answers 200."""
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C ends a benchmark, which then ends its servers
        ) as process,
    ):
        url = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + 60
            while not _answers(url + path):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise StartError(f"{' '.join(command)} did not start:\n{log.read().strip()}")
                time.sleep(0.02)
            yield url, process.pid
        finally:
            process.terminate()


Server = AbstractContextManager[tuple[str, int]]


def gateway(path: str = "/readyz", **variables: str) -> Server:
    """Run `carlarl serve` with its defaults, apart from ports and `variables`."""
    return _serve(free_ports(4), path, **variables)


@contextmanager
def stack(formats: Sequence[str] = ("onnx",), **variables: str) -> Iterator[list[int]]:
    """Run `carlarl serve`; gives the ports of gateway, Triton's HTTP, gRPC and metrics.

    Raises StartError.
    """
    ports = free_ports(4)
    with _serve(ports, "/readyz", formats, **variables):
        yield ports


def _serve(
    ports: list[int], path: str, formats: Sequence[str] = ("onnx",), **variables: str
) -> Server:
    names = ("PORT", "TRITON_HTTP_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT")
    settings = dict(zip(names, map(str, ports), strict=True))
    command = [sys.executable, "-m", "carlarl", "serve", "--formats", ",".join(formats)]
    return server(command, path, ports[0], **settings, **variables)


def settings() -> dict[str, str]:
    """Give the settings of the service that are in the environment, which a stack here gets."""
    names = (name.upper() for name in Settings.model_fields)
    return {name: value for name in names if (value := os.environ.get(name))}


def plain_alternative() -> Server:
    """Run `perf.studies.peers.fastapi_onnxruntime` as its page says."""
    (port,) = free_ports(1)
    repository = Path("model_repository")
    command = [sys.executable, "-m", "uvicorn", "perf.studies.peers.fastapi_onnxruntime:app"]
    flags = [f"--port={port}", "--loop=uvloop", "--http=httptools", "--no-access-log"]
    return server(
        command + flags,
        "/openapi.json",
        port,
        MODEL=str(repository / "policy_onnx" / "2000" / "model.onnx"),
        PREPROCESSING=str(repository / "preprocess" / "2000" / "preprocessing.json"),
    )


def free_ports(count: int) -> list[int]:
    """Give ports that nobody listens on just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == 200
    except httpx.TransportError:
        return False
