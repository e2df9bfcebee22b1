"""No library that this product runs reports to its maker."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gateway.processes import predict
from tests.stack import ROOT, running_stack

Run = Callable[..., subprocess.CompletedProcess[str]]


def written(home: Path) -> list[str]:
    """What is under `home`. ONNX Runtime with telemetry writes a device id and its events there."""
    return [str(path.relative_to(home)) for path in home.rglob("*")]


@pytest.mark.reliability
@pytest.mark.live
def test_the_service_writes_nothing_at_home(tmp_path: Path) -> None:
    with running_stack("--formats", "torchscript", HOME=str(tmp_path), WORKERS="2") as stack:
        assert predict(stack.gateway_url).status_code == 200
    assert written(tmp_path) == []


@pytest.mark.parametrize("flavour", ["python", "native"])
def test_the_converters_write_nothing_at_home(tmp_path: Path, carlarl: Run, flavour: str) -> None:
    home, target = tmp_path / "home", tmp_path / "repository"
    home.mkdir()
    options = ("--repository", str(target), "--version", "v0.1.0", "--flavour", flavour)
    done = carlarl("export", *options, HOME=str(home))
    assert done.returncode == 0, done.stderr
    assert written(home) == []


def test_the_images_have_it_off_for_every_process() -> None:
    for name in ("triton", "all-in-one"):
        assert "ORT_DISABLE_TELEMETRY=1" in (ROOT / "docker" / f"{name}.Dockerfile").read_text()
