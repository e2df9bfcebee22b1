"""`carlarl serve` as a child process, for the tests that talk to the real thing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.config.settings import Settings

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Stack:
    """A running `carlarl serve`: its process, where its parts listen, and what it prints."""

    process: subprocess.Popen[bytes]
    log: Path
    gateway_url: str
    triton_http: str
    triton_grpc: str
    triton_metrics: str

    def output(self) -> str:
        return self.log.read_text()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def port_variables(ports: list[int]) -> dict[str, str]:
    names = ("PORT", "TRITON_HTTP_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT")
    return dict(zip(names, map(str, ports), strict=True))


def clean_environment() -> dict[str, str]:
    """The environment without any setting of the service, but that it ends without notice."""
    kept = {k: v for k, v in os.environ.items() if k.lower() not in Settings.model_fields}
    return kept | {"SHUTDOWN_NOTICE_S": "0"}


@contextmanager
def running_stack(*arguments: str, **variables: str) -> Iterator[Stack]:
    """Run `carlarl serve` on free ports until the block ends, then end it by its own id."""
    ports = free_ports(4)
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "carlarl", "serve", *arguments],
            cwd=ROOT,
            env=clean_environment() | port_variables(ports) | variables,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        gateway, *triton = (f"127.0.0.1:{port}" for port in ports)
        stack = Stack(process, Path(log.name), f"http://{gateway}", *triton)
        try:
            wait_serving(stack)
            yield stack
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            finally:
                process.kill()


def wait_serving(stack: Stack) -> None:
    """Wait until the command has said that it serves."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while "Ctrl-C ends it." not in stack.output():
        if stack.process.poll() is not None:
            raise RuntimeError(
                f"carlarl serve ended with {stack.process.returncode}:\n{stack.output()}"
            )
        if time.monotonic() > deadline:
            raise RuntimeError(f"carlarl serve was not ready in time:\n{stack.output()}")
        time.sleep(0.05)
