"""The commands that make, sign and check artifacts."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from carlarl.commands.import_sb3 import import_sb3
from converters.artifact.card import ArtifactError
from tests.stack import ROOT

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "artifacts", tmp_path / "artifacts")
    return tmp_path / "artifacts"


def test_import_torchscript(command: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(7, 2)
    torch.jit.trace(layer, torch.zeros(2, 7)).save(tmp_path / "program.pt")
    folders = ("--artifacts", str(tmp_path / "artifacts"))
    importing = (
        "import-torchscript",
        str(tmp_path / "program.pt"),
        "--version",
        "v0.3.0",
        *folders,
    )
    result = command(*importing, "--sensors", "5", "--layout", "steer,acceleration")
    assert result.returncode == 0, result.stderr
    target = ("--repository", str(tmp_path / "repository"))
    assert command("export", *folders, *target).returncode == 0
    result = command(*importing, "--sensors", "5", "--layout", "steer,acceleration")
    assert result.returncode == 1
    assert "versions never change" in result.stderr
    loops = tmp_path / "loops.yaml"
    loops.write_text("a: &a [1]\nb: [*a, *a]\n")
    result = command(*importing, "--sensors", "5", "--metrics", str(loops))
    assert result.returncode == 1
    assert "loops.yaml: not YAML: aliases" in result.stderr
    result = command(*importing, "--sensors", "4")
    assert result.returncode == 1
    assert "does not run on two rows of 6 float32 features" in result.stderr


SB3_FILES = ROOT / "tests" / "converters" / "sb3_files"


def _import(policy: str, folder: Path, *options: str) -> Result:
    arguments = [str(SB3_FILES / policy), "--version", "v1.0.0", "--artifacts", str(folder)]
    return CliRunner(env={"COLUMNS": "160"}).invoke(import_sb3, [*arguments, *options])


def test_import_sb3_says_what_it_took_the_policy_for(tmp_path: Path) -> None:
    named = ("--fields", "speed,steering,sensors", "--layout", "throttle,brake,steer")
    result = _import("ppo-shared-sb16.zip", tmp_path, *named, "--scale", "linear")
    assert result.exit_code == 0, result.output
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.output.splitlines()]
    assert ["observation", "speed", "Box, one float32", "0 to 200", "km/h"] in rows
    assert ["observation", "sensors", "Box, 5 float32", "-1000 to 1000", ""] in rows
    assert ["action", "", "Box, 3 float32", "0 to 1, 0 to 0.8, -1 to 1", ""] in rows
    assert ["control", "brake", "element 1, scaled", "0 to 1", ""] in rows
    assert "note: sensors: its range is that of the policies that come with" in result.output
    export = f"`carlarl export --version v1.0.0 --artifacts {tmp_path}`"
    assert f"v1.0.0: written; {export} puts it into the repository" in result.output


@pytest.mark.parametrize("inline", [True, False])
def test_import_sb3_with_axes(inline: bool, tmp_path: Path) -> None:
    axes = "{steer: [-1, 0, 1], acceleration: [-1, 1]}"
    (tmp_path / "axes.yaml").write_text(axes)
    given = ("--axes", axes if inline else str(tmp_path / "axes.yaml"), "--repeat", "4")
    vector = ("--fields", "vector")
    result = _import("a2c-multidiscrete-np2.zip", tmp_path / "a", *vector, *given, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    assert told["control"] == {"axes": [{"steer": [-1, 0, 1]}, {"acceleration": [-1, 1]}]}
    assert (told["repeat"], told["notes"]) == (4, [])
    assert told["action_space"]["nvec"] == [3, 2]
    assert told["observation_space"]["type"] == "Box"
    result = _import("a2c-multidiscrete-np2.zip", tmp_path / "b", *vector, *given)
    assert "branch 0: -1, 0, 1" in result.output


def test_import_sb3_with_a_table(tmp_path: Path) -> None:
    table = "[{throttle: 0.5, steer: -0.4}, {throttle: 1}, {}]"
    result = _import("dqn-discrete-np2.zip", tmp_path, "--vecnormalize", "none", "--table", table)
    assert result.exit_code == 0, result.output
    for shown in ("Discrete, one int64", "throttle 0.5, steer -0.4", "value 2", "nothing"):
        assert shown in result.output


@pytest.mark.parametrize("given", ["{a: &a [*a]}", "[", "missing.yaml", "[\udcff]"])
def test_import_sb3_with_a_table_that_is_no_yaml(given: str, tmp_path: Path) -> None:
    result = _import("dqn-discrete-np2.zip", tmp_path, "--vecnormalize", "none", "--table", given)
    assert isinstance(result.exception, ArtifactError)
    assert "\n" not in str(result.exception)


def test_import_torchscript_with_a_specification(command: Run, tmp_path: Path) -> None:
    torch.jit.trace(torch.nn.Linear(4, 3), torch.zeros(2, 4)).save(tmp_path / "program.pt")
    (tmp_path / "spec.yaml").write_text(
        "observation_space:\n"
        "  type: Dict\n"
        "  subspaces:\n"
        "    gear: {type: Discrete, n: 3, start: 1}\n"
        "    speed: {type: Box, dtype: float32, shape: [], low: 0, high: 50, unit: m/s}\n"
        "action_space: {type: Discrete, n: 3}\n"
        "control: {table: [{throttle: 1}, {brake: 1}, {steer: 1, hand_brake: true}]}\n"
    )
    importing = ("import-torchscript", str(tmp_path / "program.pt"), "--version", "v0.3.0")
    folders = ("--artifacts", str(tmp_path / "artifacts"))
    result = command(*importing, *folders, "--spec", str(tmp_path / "spec.yaml"))
    assert result.returncode == 0, result.stderr
    assert "m/s" in result.stdout
    result = command(*importing, *folders, "--sensors", "5", "--fields", "vector:4")
    assert result.returncode == 2
    result = command(*importing, *folders, "--fields", "speed,speed,sensors")
    assert result.returncode == 2
    assert "speed is there twice" in result.stderr


def test_sign_and_export_only_what_is_signed(command: Run, artifacts: Path, tmp_path: Path) -> None:
    key, public = tmp_path / "key.pem", tmp_path / "key.pem.pub"
    folders = ("--artifacts", str(artifacts), "--repository", str(tmp_path / "repository"))
    assert command("sign", "--generate", str(key)).returncode == 0
    result = command("sign", "--generate", str(key))
    assert result.returncode == 1
    assert "never overwritten" in result.stderr
    export = ("export", *folders, "--version", "v0.2.0", "--formats", "onnx")

    result = command(*export, ARTIFACT_PUBLIC_KEY=str(public))
    assert result.returncode == 1
    assert "model_card.sig: no such file, and only signed artifacts" in result.stderr
    assert not (tmp_path / "repository").exists()

    signing = ("sign", "v0.2.0", "--artifacts", str(artifacts))
    assert command(*signing, "--key", str(key)).returncode == 0
    for given in (str(public), public.read_text()):
        assert command(*export, ARTIFACT_PUBLIC_KEY=given).returncode == 0

    command("sign", "--generate", str(tmp_path / "other.pem"))
    assert command(*signing, "--key", str(tmp_path / "other.pem")).returncode == 0
    result = command(*export, ARTIFACT_PUBLIC_KEY=str(public))
    assert result.returncode == 1
    assert "not this key's signature" in result.stderr
    result = command(*export, ARTIFACT_PUBLIC_KEY=str(tmp_path / "none.pub"))
    assert result.returncode == 1
    assert "none.pub: no public key in PEM" in result.stderr


@pytest.fixture
def target(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "model_repository", tmp_path / "model_repository")
    return tmp_path / "model_repository"


def test_validate_the_committed_versions(command: Run) -> None:
    result = command("validate")
    assert result.returncode == 0, result.stdout
    lines = result.stdout.splitlines()
    for version in ("v0.1.0", "v0.2.0"):
        for check in ("card", "hashes", "contents", "repository", "certificate"):
            assert sum(line.startswith(f"✓ {version} {check}: ") for line in lines) == 1
    assert "✗" not in result.stdout
    assert "not bit-exact across batch sizes: torchscript" in result.stdout
    assert "determinism certificate" in result.stdout


def test_validate_names_what_drifted(command: Run, artifacts: Path, target: Path) -> None:
    (target / "policy_onnx-v0.2.0" / "2000" / "model.onnx").write_bytes(b"another")
    (target / "preprocess-v0.2.0" / "2000" / "model.py").unlink()
    (target / "policy_onnx-v0.2.0" / "2000" / "extra.bin").write_bytes(b"")
    config = target / "carla_policy-v0.2.0" / "config.pbtxt"
    config.write_text(config.read_text().replace("model_version: 2000", "model_version: 1000", 1))
    with (artifacts / "v0.1.0" / "preprocessor.pkl").open("ab") as file:
        file.write(b"!")
    where = ("--artifacts", str(artifacts), "--repository", str(target), "--json")
    result = command("validate", *where)
    assert result.returncode == 1
    told = json.loads(result.stdout)
    assert told["ok"] is False
    failed = {(one["version"], one["check"]): one for one in told["checks"] if not one["ok"]}
    assert set(failed) == {("v0.1.0", "hashes"), ("v0.2.0", "repository")}
    assert "preprocessor.pkl: its hash is" in failed["v0.1.0", "hashes"]["found"]
    drift = failed["v0.2.0", "repository"]
    for part in (
        "preprocess-v0.2.0/2000/model.py is missing",
        "policy_onnx-v0.2.0/2000/extra.bin is of no export",
        "policy_onnx-v0.2.0/2000/model.onnx differs",
        "carla_policy-v0.2.0/config.pbtxt differs",
    ):
        assert part in drift["found"]
    assert drift["todo"] == "carlarl export --version v0.2.0"


def test_validate_says_what_is_not_there(command: Run, artifacts: Path, target: Path) -> None:
    where = ("--artifacts", str(artifacts), "--repository", str(target))
    shutil.rmtree(artifacts / "v0.1.0")
    shutil.rmtree(target / "carla_policy-v0.2.0")
    result = command("validate", *where)
    assert result.returncode == 1
    assert "✗ v0.1.0 card: " in result.stdout
    assert "✗ v0.2.0 repository: " in result.stdout
    (artifacts / "v0.1.0").mkdir()  # what is left of one
    result = command("validate", "--artifacts", str(artifacts), "--repository", str(target / "no"))
    assert result.returncode == 1
    assert "✗ v0.1.0 card: " in result.stdout
    assert "✓ v0.2.0 contents: " in result.stdout
    assert "✗ v0.2.0 repository: " in result.stdout
    result = command("validate", "v0.9.0", *where)
    assert result.returncode == 1
    assert "✗ v0.9.0 card: " in result.stdout


def test_validate_signatures(command: Run, artifacts: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    where = ("--artifacts", str(artifacts))
    command("sign", "--generate", str(key))
    assert command("sign", "v0.2.0", "--key", str(key), *where).returncode == 0
    result = command("validate", *where, "--key", f"{key}.pub")
    assert result.returncode == 1
    assert "✗ v0.1.0 signature: " in result.stdout
    assert "✓ v0.2.0 signature: " in result.stdout
    assert "v0.1.0 card" not in result.stdout  # nothing of it is opened
    result = command("validate", "v0.2.0", *where, ARTIFACT_PUBLIC_KEY=f"{key}.pub")
    assert result.returncode == 0


def test_what_is_damaged_is_not_signed(command: Run, artifacts: Path, tmp_path: Path) -> None:
    command("sign", "--generate", str(tmp_path / "key.pem"))
    with (artifacts / "v0.2.0" / "model.pt").open("ab") as file:
        file.write(b"!")
    signing = ("sign", "v0.2.0", "--key", str(tmp_path / "key.pem"), "--artifacts", str(artifacts))
    result = command(*signing)
    assert result.returncode == 1
    assert "model.pt: its hash is" in result.stderr
    assert command("sign", "v0.2.0").returncode == 2
    assert command("sign").returncode == 2
