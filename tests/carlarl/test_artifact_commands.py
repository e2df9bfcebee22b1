"""The commands that make, sign and check artifacts."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.stack import ROOT

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "artifacts", tmp_path / "artifacts")
    return tmp_path / "artifacts"


def test_import_torchscript(carlarl: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(7, 2)
    torch.jit.trace(layer, torch.zeros(2, 7)).save(tmp_path / "program.pt")
    folders = ("--artifacts", str(tmp_path / "artifacts"))
    command = ("import-torchscript", str(tmp_path / "program.pt"), "--version", "v0.3.0", *folders)
    result = carlarl(*command, "--sensors", "5", "--layout", "steer,acceleration")
    assert result.returncode == 0, result.stderr
    target = ("--repository", str(tmp_path / "repository"))
    assert carlarl("export", *folders, *target).returncode == 0
    result = carlarl(*command, "--sensors", "5", "--layout", "steer,acceleration")
    assert result.returncode == 1
    assert "versions never change" in result.stderr
    result = carlarl(*command, "--sensors", "4")
    assert result.returncode == 1
    assert "does not run on two rows of 6 features" in result.stderr


def test_sign_and_export_only_what_is_signed(carlarl: Run, artifacts: Path, tmp_path: Path) -> None:
    key, public = tmp_path / "key.pem", tmp_path / "key.pem.pub"
    folders = ("--artifacts", str(artifacts), "--repository", str(tmp_path / "repository"))
    assert carlarl("sign", "--generate", str(key)).returncode == 0
    result = carlarl("sign", "--generate", str(key))
    assert result.returncode == 1
    assert "never overwritten" in result.stderr
    export = ("export", *folders, "--version", "v0.2.0", "--formats", "onnx")

    result = carlarl(*export, ARTIFACT_PUBLIC_KEY=str(public))
    assert result.returncode == 1
    assert "model_card.sig: no such file, and only signed artifacts" in result.stderr
    assert not (tmp_path / "repository").exists()

    signing = ("sign", "v0.2.0", "--artifacts", str(artifacts))
    assert carlarl(*signing, "--key", str(key)).returncode == 0
    for given in (str(public), public.read_text()):
        assert carlarl(*export, ARTIFACT_PUBLIC_KEY=given).returncode == 0

    carlarl("sign", "--generate", str(tmp_path / "other.pem"))
    assert carlarl(*signing, "--key", str(tmp_path / "other.pem")).returncode == 0
    result = carlarl(*export, ARTIFACT_PUBLIC_KEY=str(public))
    assert result.returncode == 1
    assert "not this key's signature" in result.stderr
    result = carlarl(*export, ARTIFACT_PUBLIC_KEY=str(tmp_path / "none.pub"))
    assert result.returncode == 1
    assert "none.pub: no public key in PEM" in result.stderr


def test_what_is_damaged_is_not_signed(carlarl: Run, artifacts: Path, tmp_path: Path) -> None:
    carlarl("sign", "--generate", str(tmp_path / "key.pem"))
    with (artifacts / "v0.2.0" / "model.pt").open("ab") as file:
        file.write(b"!")
    command = ("sign", "v0.2.0", "--key", str(tmp_path / "key.pem"), "--artifacts", str(artifacts))
    result = carlarl(*command)
    assert result.returncode == 1
    assert "model.pt: its hash is" in result.stderr
    assert carlarl("sign", "v0.2.0").returncode == 2
    assert carlarl("sign").returncode == 2
