"""A file of another kind, given to an import command, is named, with the command that takes it."""

from __future__ import annotations

import os
import pickle
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.preprocessing import StandardScaler

from carlarl.commands.import_onnx import import_onnx
from carlarl.commands.import_sb3 import import_sb3
from carlarl.commands.import_torchscript import import_torchscript
from converters.artifact import artifact
from converters.artifact.card import ArtifactError
from converters.importers import files
from tests.stack import ROOT

SB3 = Path(__file__).parent / "sb3_files" / "a2c-multidiscrete-np2.zip"


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(7, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(features)
        return out


def _made(folder: Path) -> dict[str, Path]:
    import joblib

    net, rows = Net().eval(), torch.zeros(2, 7)
    paths = {name: folder / name for name in ("program.pt", "policy.onnx", "text.zip", *TOLD)}
    torch.save(net.state_dict(), paths["state.pt"])
    torch.save(net.state_dict(), paths["old.pt"], _use_new_zipfile_serialization=False)
    torch.jit.trace(net, rows).save(paths["program.pt"])
    torch.export.save(torch.export.export(net, (rows,)), paths["exported.pt2"])
    shutil.copyfile(next((ROOT / "model_repository").rglob("model.onnx")), paths["policy.onnx"])
    scaler = StandardScaler().fit(np.eye(7))
    joblib.dump(scaler, paths["joblib.pkl"])
    joblib.dump(scaler, paths["compressed.pkl"], compress=3)
    paths["scaler.pkl"].write_bytes(pickle.dumps(scaler))
    paths["pointer.zip"].write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    paths["text.zip"].write_text("no policy")
    return {**paths, "policy.zip": SB3}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return _made(tmp_path_factory.mktemp("files"))


TRACE = "trace the policy with torch.jit.trace, save that, and use `carlarl import-torchscript`"
CLASS = "use `carlarl import-torch MODULE:CLASS --checkpoint`"
TOLD = {
    "state.pt": ("what torch.save wrote, without a program", CLASS),
    "old.pt": ("what torch.save wrote, without a program", CLASS),
    "exported.pt2": ("a program of torch.export", TRACE),
    "policy.onnx": ("an ONNX model", "use `carlarl import-onnx`"),
    "joblib.pkl": ("a pickle or joblib file", "carlarl import-sb3 --vecnormalize"),
    "compressed.pkl": ("a pickle or joblib file", "carlarl import-torchscript --preprocessor"),
    "scaler.pkl": ("a pickle or joblib file", "carlarl import-sb3 --vecnormalize"),
    "pointer.zip": ("a pointer of Git LFS", "git lfs pull"),
}
COMMANDS: dict[str, tuple[Any, list[str]]] = {
    "import-sb3": (import_sb3, ["--fields", "vector"]),
    "import-torchscript": (import_torchscript, ["--sensors", "5"]),
    "import-onnx": (import_onnx, ["--fields", "vector:7"]),
}


def _refused(command: str, path: Path, folder: Path, *more: str) -> str:
    run, options = COMMANDS[command]
    target = str(folder / "artifacts")
    arguments = [str(path), "--version", "v1.0.0", "--artifacts", target, *options, *more]
    result = CliRunner().invoke(run, arguments)
    assert isinstance(result.exception, ArtifactError), result.output
    assert "\n" not in str(result.exception)
    assert not (folder / "artifacts" / "v1.0.0").exists()
    return str(result.exception)


@pytest.mark.parametrize(
    ("command", "name"), sorted({*product(COMMANDS, TOLD)} - {("import-onnx", "policy.onnx")})
)
def test_named_with_what_to_do(
    command: str, name: str, made: dict[str, Path], tmp_path: Path
) -> None:
    told = _refused(command, made[name], tmp_path)
    what, advice = TOLD[name]
    assert f"{made[name]}: this is {what}" in told
    assert advice in told


def test_each_importer_names_the_other(made: dict[str, Path], tmp_path: Path) -> None:
    told = _refused("import-sb3", made["program.pt"], tmp_path)
    assert "a TorchScript program, not a policy of Stable-Baselines3: use `carlarl import-t" in told
    told = _refused("import-torchscript", made["policy.zip"], tmp_path)
    assert "a policy of Stable-Baselines3, not a TorchScript program: use `carlarl import-s" in told


@pytest.mark.parametrize("name", ["program.pt", "policy.zip", "policy.onnx", "pointer.zip"])
def test_what_is_no_statistics(name: str, made: dict[str, Path], tmp_path: Path) -> None:
    given = ("--preprocessor", str(made[name]))
    told = _refused("import-torchscript", made["program.pt"], tmp_path, *given)
    assert "no pickle of statistics" in told


@pytest.mark.parametrize("command", COMMANDS)
def test_neither(command: str, made: dict[str, Path], tmp_path: Path) -> None:
    assert "no " in _refused(command, made["text.zip"], tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_fifo_does_not_hang(command: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "no regular file" in _refused(command, tmp_path / "fifo", tmp_path)


def test_a_fifo_of_statistics_does_not_hang(made: dict[str, Path], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    program = made["program.pt"]
    told = _refused(
        "import-torchscript", program, tmp_path, "--preprocessor", str(tmp_path / "fifo")
    )
    assert "no regular file" in told


def test_a_folder_for_artifacts_that_cannot_be_asked(made: dict[str, Path], tmp_path: Path) -> None:
    """A name that is too long, as a closed folder, makes even `exists` raise."""
    long = tmp_path / ("x" * 300)
    run, options = COMMANDS["import-torchscript"]
    arguments = [str(made["program.pt"]), "--version", "v1.0.0", "--artifacts", str(long), *options]
    result = CliRunner().invoke(run, arguments)
    assert isinstance(result.exception, ArtifactError)
    assert "name too long" in str(result.exception)


def test_a_file_in_a_closed_folder(tmp_path: Path) -> None:
    """Root may read everything, so this runs as nobody where the tests run as root."""
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "policy.zip").write_bytes(SB3.read_bytes())
    closed.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(ArtifactError, match="Permission denied"):
            files.read(closed / "policy.zip", "sb3")
    finally:
        if root:
            os.seteuid(0)
        closed.chmod(0o700)


@pytest.mark.parametrize("given", ["none", str(SB3.with_name("sac-box-np2.pkl"))])
def test_a_zip_saved_under_numpy_2(given: str, tmp_path: Path) -> None:
    path, target = str(SB3.with_name("sac-box-np2.zip")), str(tmp_path / "artifacts")
    arguments = [path, "--version", "v1.0.0", "--artifacts", target, "--vecnormalize", given]
    arguments += ["--fields", "vector"]
    result = CliRunner().invoke(import_sb3, arguments)
    assert result.exit_code == 0, result.output
    loaded = artifact.load(tmp_path / "artifacts" / "v1.0.0")
    assert len(loaded.preprocessing.steps) == (0 if given == "none" else 3)


def test_none_is_no_file(made: dict[str, Path], tmp_path: Path) -> None:
    option = next(part for part in import_sb3.params if part.name == "vecnormalize")
    assert option.type.convert("none", option, None) == "none"
    assert option.type.convert(str(SB3), option, None) == SB3
    with pytest.raises(click.UsageError, match="does not exist"):
        option.type.convert(str(tmp_path / "missing.pkl"), option, None)
