"""The repository that an export writes, and what a failed one leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converters.artifact import artifact
from converters.export import formats, parity
from converters.export.export import export
from converters.repository import configs, repository
from converters.repository.activation import set_alias
from tests.converters.conftest import DEFAULT
from triton_backend import runtimes

MakeArtifact = Callable[..., Path]

EXPECTED = Path(__file__).parent / "expected"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, make_artifact: MakeArtifact) -> Path:
    """Two artifacts, and the repository of both."""
    place = tmp_path_factory.mktemp("exported")
    folders = [make_artifact(place / "artifacts" / version) for version in ("v0.1.0", "v0.2.0")]
    export(folders, place / "repository")
    return place


@pytest.fixture
def folders(tmp_path: Path, exported: Path) -> list[Path]:
    copy = shutil.copytree(exported / "artifacts", tmp_path / "artifacts")
    return [copy / "v0.1.0", copy / "v0.2.0"]


@pytest.fixture
def target(tmp_path: Path, exported: Path) -> Path:
    return shutil.copytree(exported / "repository", tmp_path / "repository")


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_files(target: Path) -> None:
    assert sorted(contents(target)) == sorted(
        [f"{name}/{file}" for name in
         ("carla_policy", "carla_policy-v0.1.0", "carla_policy-v0.2.0",
          "carla_policy_torchscript-v0.1.0", "carla_policy_torchscript-v0.2.0")
         for file in ("config.pbtxt", "1/.gitkeep")]
        + [f"{name}-{version}/{file}" for version, number in (("v0.1.0", 1000), ("v0.2.0", 2000))
           for name, made in (("preprocess", "preprocessing.json"), ("policy_onnx", "model.onnx"),
                              ("policy_torchscript", "model.pt"))
           for file in ("config.pbtxt", f"{number}/model.py", f"{number}/{made}")]
        + [f"carla_policy_fused-{version}/{file}" for version in ("v0.1.0", "v0.2.0") for file in
           ("config.pbtxt", "1/model.py", "1/model.onnx", "1/preprocessing.json")]
    )  # fmt: skip
    for path in target.glob("*/*/model.py"):
        assert path.read_text().count("\n") == 1


def test_configs() -> None:
    parameters = {"version": "v1.2.3", "sensors": "5"}
    written = {
        "preprocess": configs.preprocess("v1.2.3", DEFAULT),
        "policy_onnx": configs.policy("v1.2.3", DEFAULT, "onnx"),
        "fused": configs.fused("v1.2.3", DEFAULT),
        "ensemble": configs.ensemble("carla_policy-v1.2.3", "v1.2.3", DEFAULT, "onnx", parameters),
    }
    for name, text in written.items():
        assert text == (EXPECTED / f"{name}.pbtxt").read_text()


def test_ensembles_are_pinned_and_carry_what_the_gateway_needs(target: Path) -> None:
    for name, version, form in (
        ("carla_policy", "v0.2.0", "onnx"),
        ("carla_policy-v0.1.0", "v0.1.0", "onnx"),
        ("carla_policy_torchscript-v0.1.0", "v0.1.0", "torchscript"),
    ):
        config = repository.read_config(target, name)
        number = {"v0.1.0": 1000, "v0.2.0": 2000}[version]
        assert [(s.model_name, s.model_version) for s in config.ensemble_scheduling.step] == [
            (f"preprocess-{version}", number),
            (f"policy_{form}-{version}", number),
        ]
        told = {key: value.string_value for key, value in config.parameters.items()}
        assert (told["version"], told["format"], told["sensors"]) == (version, form, "5")
        assert told["formats"] == "onnx,torchscript"
        assert json.loads(told["model_card"])["model_name"] == "toy"
        assert len(json.loads(told["golden"])["actions"]) == 4
        assert {cell["batch"] for cell in json.loads(told["certificate"])["cells"]} == set(
            parity.BATCH_SIZES
        )


def test_without_recordings_golden_answers_tell_policies_apart(
    tmp_path: Path, make_artifact: MakeArtifact
) -> None:
    versions = ("v0.1.0", "v0.2.0")
    folders = [make_artifact(tmp_path / "artifacts" / version, recorded=0) for version in versions]
    export(folders, tmp_path / "repository", ["onnx"])
    one, other = (
        np.array(json.loads(config.parameters["golden"].string_value)["actions"])
        for version in versions
        for config in [repository.read_config(tmp_path / "repository", f"carla_policy-{version}")]
    )
    assert np.abs(one - other).max() > 0.01
    assert len(np.unique(one, axis=0)) == 4


def test_run_twice_changes_nothing(target: Path, folders: list[Path]) -> None:
    before = contents(target)
    stamps = {p: p.stat().st_mtime_ns for p in target.rglob("*") if p.is_file()}
    export(folders, target)
    assert contents(target) == before
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


def test_active_version(target: Path, folders: list[Path]) -> None:
    assert export(folders[:1], target).active == "v0.2.0"
    assert export(folders[:1], target, activate="v0.1.0").active == "v0.1.0"
    assert export(folders, target).active == "v0.1.0"
    assert [(one.version, one.active) for one in repository.versions(target)] == [
        ("v0.1.0", True),
        ("v0.2.0", False),
    ]
    before = contents(target)
    steps: list[str] = []
    with pytest.raises(repository.RepositoryError) as told:
        export(folders, target, ["onnx"], "v7.0.0", lambda version, step: steps.append(step))
    assert str(told.value) == (
        f"{target}: the repository does not hold v7.0.0; it holds v0.1.0, v0.2.0"
    )
    assert set(steps) == {"load"}, "it is told before any conversion"
    assert contents(target) == before


def test_a_version_never_changes(target: Path, make_artifact: MakeArtifact, tmp_path: Path) -> None:
    other = make_artifact(tmp_path / "others" / "v0.1.0", recorded=8)
    before = contents(target)
    with pytest.raises(repository.RepositoryError, match=r"v0\.1\.0 .*never change; give the ch"):
        export([other], target)
    assert contents(target) == before


def test_models_of_the_user_stay(target: Path, folders: list[Path]) -> None:
    for name in ("preprocess_mine/1000", "policy_mine/1000", "carla_policy_mine-v0.1.0/1"):
        repository.write(target / name / "model.py", b"mine")
    repository.write(target / "policy_empty" / "config.pbtxt", b"")
    repository.write(target / "policy_notes.txt", b"mine")
    left_over = ("policy_onnx_s9a2/1000", "preprocess/1000", "policy_tensorrt-v0.1.0/1000")
    for name in left_over:
        repository.write(target / name / "model.py", b"ours")
    repository.write(target / "preprocess" / "2000" / "model.py", b"another version's")
    before = contents(target)
    export(folders[:1], target)
    gone = before.keys() - contents(target).keys()
    assert gone == {f"{name}/model.py" for name in left_over}


def test_a_format_that_is_no_longer_wanted_goes(target: Path, folders: list[Path]) -> None:
    export(folders[:1], target, ["torchscript"])
    names = {path.name for path in target.iterdir()}
    assert "carla_policy_torchscript-v0.1.0" not in names
    assert not (target / "policy_onnx-v0.1.0").exists()
    assert (target / "policy_onnx-v0.2.0").exists()
    assert (
        repository.read_config(target, "carla_policy-v0.1.0").parameters["format"].string_value
        == "torchscript"
    )


def test_each_version_has_models_of_its_own(
    target: Path, tmp_path: Path, make_artifact: MakeArtifact
) -> None:
    other = make_artifact(
        tmp_path / "artifacts" / "v0.3.0", sensors=9, layout=("steer", "acceleration")
    )
    before = contents(target)
    export([other], target)
    assert repository.read_config(target, "preprocess-v0.3.0").input[2].dims == [9]
    assert before.items() <= contents(target).items()


@pytest.mark.parametrize("squash", ["clip", "tanh"])
@pytest.mark.parametrize("std", ["parameter", "network", "none"])
@pytest.mark.parametrize("layout", [("steer", "acceleration"), ("steer", "throttle", "brake")])
def test_every_kind_of_policy(
    tmp_path: Path, make_artifact: MakeArtifact, layout: tuple[str, ...], std: str, squash: str
) -> None:
    folder = make_artifact(tmp_path / "v1.0.0", layout=layout, std=std, squash=squash)
    source = artifact.load(folder)
    features, noise = parity.probes(source)
    actions = parity.actions(source, features, noise)
    assert (actions >= [0, 0, -1]).all()
    assert (actions <= 1).all()
    stochastic = len(actions) // 2
    assert (actions[:stochastic] == actions[stochastic:]).all() == (std == "none")
    if "acceleration" in layout:
        assert not (actions[:, 0] * actions[:, 1]).any()
    export([folder], tmp_path / "repository")  # parity of both formats, or it raises


class _Off:
    """A runtime that is wrong by a little."""

    def __init__(self, path: Path) -> None:
        self._right = runtimes.onnx(path)

    def __call__(self, features: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, ...]:
        return (self._right(features, noise)[0] + np.float32(2e-5),)


def test_beyond_tolerance_nothing_is_written(
    target: Path, folders: list[Path], monkeypatch: pytest.MonkeyPatch, make_artifact: MakeArtifact
) -> None:
    before = contents(target)
    new = make_artifact(folders[0].parent / "v0.3.0")
    onnx = formats.FORMATS["onnx"]
    wrong = formats.Format(onnx.name, onnx.file, onnx.model, onnx.write, _Off)
    monkeypatch.setitem(formats.FORMATS, "onnx", wrong)
    with pytest.raises(parity.ParityError, match=r"v0\.3\.0 as onnx, batch 1: .* by 2e-05"):
        export([new], target)
    assert contents(target) == before
    assert not list(target.parent.glob(".*.change-*"))


def test_a_damaged_artifact_leaves_the_repository(target: Path, folders: list[Path]) -> None:
    before = contents(target)
    (folders[1] / artifact.MODEL).write_bytes(b"damaged")
    with pytest.raises(artifact.ArtifactError, match=r"model\.pt: its hash"):
        export(folders, target, activate="v0.1.0")
    assert contents(target) == before


def test_killed_while_exporting(target: Path, folders: list[Path]) -> None:
    before = contents(target)
    program = (
        "import sys, time; from pathlib import Path; from converters.export.export import export\n"
        "def halt(version, step):\n"
        "    if step == 'torchscript': print('half-way', flush=True); time.sleep(60)\n"
        "target, *folders = map(Path, sys.argv[1:])\n"
        "export(folders, target, activate='v0.1.0', progress=halt)"
    )
    command = [sys.executable, "-c", program, str(target), *map(str, folders)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "half-way\n"
        with pytest.raises(repository.RepositoryError, match="another command is changing it"):
            export(folders, target)
        os.kill(child.pid, signal.SIGKILL)
    assert contents(target) == before
    assert any(path.name.startswith(".repository.change-") for path in target.parent.iterdir())
    export(folders, target, activate="v0.1.0")
    assert repository.active_version(target) == "v0.1.0"
    assert not list(target.parent.glob(".*.change-*"))


def test_readers_see_the_old_or_the_new_repository(target: Path) -> None:
    """While the active version flips, whoever reads finds one of both, whole."""
    program = (
        "import sys; from pathlib import Path; from converters.repository import repository\n"
        "seen = set()\n"
        "print('reading', flush=True)\n"
        "while len(seen) < 2 or len(list(Path(sys.argv[1]).iterdir())) != 13:\n"
        "    seen.add(repository.active_version(Path(sys.argv[1])))\n"
        "print(sorted(seen))"
    )
    command = [sys.executable, "-c", program, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        deadline = time.monotonic() + 20
        turn = 0
        while reader.poll() is None and time.monotonic() < deadline:
            turn += 1
            with repository.transaction(target) as tree:
                set_alias(tree, ("v0.1.0", "v0.2.0")[turn % 2])
        assert reader.stdout.read() == "['v0.1.0', 'v0.2.0']\n"


def test_parity_cells_of_onnx_are_bit_exact(target: Path) -> None:
    told = repository.read_config(target, "carla_policy").parameters["certificate"].string_value
    cells = [cell for cell in json.loads(told)["cells"] if cell["format"] == "onnx"]
    assert all(cell["repeats_bit_exact"] and cell["alone_bit_exact"] for cell in cells)
    assert all(cell["max_error"] <= parity.TOLERANCE for cell in cells)
