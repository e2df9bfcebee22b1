"""The real thing, once per session: Triton, the gateway and the committed policies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from carlarl.cli import main
from tests.stack import ROOT, Stack, clean_environment, running_stack

# A shell without job control lets `pytest &` and all that it starts ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The default repository, all formats, v0.2.0 active."""
    with running_stack("--formats", "torchscript") as running:
        yield running


@pytest.fixture(scope="session")
def gateway_url(stack: Stack) -> str:
    return stack.gateway_url


@pytest.fixture(scope="session")
def triton_http(stack: Stack) -> str:
    return stack.triton_http


@pytest.fixture(scope="session")
def triton_grpc(stack: Stack) -> str:
    return stack.triton_grpc


@pytest.fixture(scope="session")
def carlarl() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line; give its status, output and errors."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "carlarl", *arguments],
            cwd=ROOT,
            env=clean_environment() | variables,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """As `carlarl`, in this process: where starting an interpreter with torch is not the point."""
    monkeypatch.chdir(ROOT)
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["carlarl", *arguments])
            for name, value in variables.items():
                patch.setenv(name, value)
            try:
                main()
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
        return subprocess.CompletedProcess(arguments, status, *capfd.readouterr())

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what talks to a live Triton, so that it can be counted and chosen."""
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker("live")
