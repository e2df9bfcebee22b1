"""Wrong files of every kind, given to the import commands: each is refused in one sentence."""

import os
import pickle
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from converters.artifact.card import ArtifactError
from converters.importers import files
from tests.stack import ROOT

SB3 = Path(__file__).parent / "sb3_files" / "a2c-multidiscrete-np2.zip"
Command = Callable[..., subprocess.CompletedProcess[str]]


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(7, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(features)
        return out


class Wide(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(7, 9)


class Runs:
    """Unpickling it makes the file `ran` beside what was read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


TRACE = "trace the policy with torch.jit.trace, save that, and use `carlarl import-torchscript`"
CLASS = "use `carlarl import-torch MODULE:CLASS --checkpoint`"
TOLD = {
    "state.pt": f"this is a checkpoint of torch.save, not .*: {CLASS}",
    "old.pt": f"this is a checkpoint of torch.save, not .*: {CLASS}",
    "module.pt": f"this is a checkpoint of torch.save, not .*: {CLASS}",
    "program.pt": "this is a TorchScript program, not .*: use `carlarl import-torchscript`",
    "exported.pt2": f"this is a program of torch.export .*: {TRACE}",
    "policy.onnx": "this is an ONNX model, not .*: use `carlarl import-onnx`",
    "policy.zip": "this is a policy of Stable-Baselines3, not .*: use `carlarl import-sb3`",
    "scaler.pkl": "this is a pickle, not .*: .*carlarl import-sb3 --vecnormalize",
    "runs.pkl": "this is a pickle, not .*: .*carlarl import-torchscript --preprocessor",
    "joblib.pkl": "this is a joblib file, not .*: .*write them with pickle.dump",
    "compressed.pkl": "this is a joblib file, not .*: .*write them with pickle.dump",
    "pointer.zip": "this is a pointer of Git LFS, not .*: fetch it with `git lfs pull`",
    "empty": "",
    "random": "",
    "text": "",
    "list.yaml": "",
    "other.zip": "",
    "cut.zip": "",
    "cut.pt": "",
    "cut.onnx": "",
    "rows.npz": "",
    "fifo": "no regular file",
    "folder": "is a directory",
    "missing": "does not exist",
    "/proc/self/mem": "Input/output error|not readable",  # a regular file that can't be read
}
"""The files, and what a command says that takes another kind."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    paths = {name: folder / name for name in TOLD}
    net, rows, scaler = Net().eval(), torch.zeros(2, 7), StandardScaler().fit(np.eye(12))
    torch.save(net.state_dict(), paths["state.pt"])
    torch.save(net.state_dict(), paths["old.pt"], _use_new_zipfile_serialization=False)
    torch.save({"agent": net, "extra": Runs(folder / "ran")}, paths["module.pt"])
    torch.jit.trace(net, rows).save(paths["program.pt"])  # type: ignore[no-untyped-call]
    torch.export.save(torch.export.export(net, (rows,)), paths["exported.pt2"])
    shutil.copyfile(next((ROOT / "model_repository").rglob("model.onnx")), paths["policy.onnx"])
    shutil.copyfile(SB3, paths["policy.zip"])
    joblib.dump(scaler, paths["joblib.pkl"])
    joblib.dump(scaler, paths["compressed.pkl"], compress=3)
    paths["scaler.pkl"].write_bytes(pickle.dumps(scaler))
    paths["runs.pkl"].write_bytes(pickle.dumps(Runs(folder / "ran")))
    paths["pointer.zip"].write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    paths["empty"].touch()
    paths["random"].write_bytes(np.random.default_rng(0).bytes(5000))
    paths["text"].write_text("no policy")
    paths["list.yaml"].write_text("- 1\n- 2\n")
    with zipfile.ZipFile(paths["other.zip"], "w") as archive:
        archive.writestr("readme.txt", "no policy")
    for name in ("policy.zip", "program.pt", "policy.onnx"):
        whole = paths[name].read_bytes()
        paths[f"cut{paths[name].suffix}"].write_bytes(whole[: len(whole) // 2])
    np.savez(paths["rows.npz"], lane=np.zeros((3, 2)))
    os.mkfifo(paths["fifo"])
    paths["folder"].mkdir()
    return paths


STATISTICS = {"scaler.pkl", "runs.pkl"}
PROGRAM = ["import-torchscript", "program.pt", "--fields", "vector:7"]
OTHER = ["--fields", "vector:9"]
PLACES: dict[str, tuple[list[str], set[str]]] = {
    "import-sb3": (["import-sb3", "FILE", "--layout", "steer"], {"policy.zip"}),
    "import-torch": (
        ["import-torch", f"{__name__}:Wide", "--fields", "vector:7", "--checkpoint", "FILE"],
        {"state.pt", "old.pt", "module.pt"},
    ),
    "import-torchscript": (["import-torchscript", "FILE", *OTHER], {"program.pt"}),
    "import-onnx": (["import-onnx", "FILE", *OTHER], {"policy.onnx"}),
    "--vecnormalize": (
        ["import-sb3", "policy.zip", "--fields", "vector", "--vecnormalize", "FILE"],
        STATISTICS,
    ),
    "--preprocessor": ([*PROGRAM, "--preprocessor", "FILE"], STATISTICS),
    "--observations": ([*PROGRAM, "--observations", "FILE"], set(TOLD)),
    "--metrics": ([*PROGRAM, "--metrics", "FILE"], set(TOLD)),
    "--spec": (["import-torchscript", "program.pt", "--spec", "FILE"], set(TOLD)),
}
"""Where FILE is given, and the files that are of the kind that is taken there, or are not named."""


@pytest.mark.parametrize("name", TOLD)
@pytest.mark.parametrize("place", PLACES)
def test_one_sentence(
    place: str, name: str, made: dict[str, Path], tmp_path: Path, command: Command
) -> None:
    arguments, unnamed = PLACES[place]
    paths = {**made, "FILE": made[name]}
    given = [str(paths.get(one, one)) for one in arguments]
    done = command(*given, "--version", "v1.0.0", "--artifacts", str(tmp_path / "artifacts"))
    *usage, told = done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    if usage:
        assert done.returncode == 2
        assert usage[0].startswith("Usage: ")
        assert told.startswith("Error: ")
    else:
        assert done.returncode == 1
        assert told.startswith("carlarl: ")
    if name not in unnamed:
        assert re.search(TOLD[name], told), told
    assert not done.stdout
    assert not [*tmp_path.rglob("*.*")]
    assert not (made["runs.pkl"].parent / "ran").exists()


def test_a_folder_for_artifacts_that_cannot_be_asked(
    made: dict[str, Path], tmp_path: Path, command: Command
) -> None:
    """A name that is too long, as a closed folder, makes even `exists` raise."""
    given = ["import-torchscript", str(made["program.pt"]), "--fields", "vector:7"]
    done = command(*given, "--version", "v1.0.0", "--artifacts", str(tmp_path / ("x" * 300)))
    assert done.returncode == 1
    assert "name too long" in done.stderr


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
