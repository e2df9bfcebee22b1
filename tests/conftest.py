"""The real thing, once per session: Triton, the gateway and the committed policies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.stack import ROOT, Stack, clean_environment, running_stack


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what talks to a live Triton, so that it can be counted and chosen."""
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker("live")
