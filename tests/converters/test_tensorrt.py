"""Real TensorRT engines, built without a GPU, and what is said where one can't be built."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from converters.export import parity, tensorrt
from converters.export.export import export
from converters.repository import comparison, repository
from converters.repository.tensors import MAX_BATCH_SIZE
from triton_backend.engine import BuildRecord, digest

MakeArtifact = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]

ALL = ("onnx", "torchscript", "tensorrt")


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on a machine that has one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, make_artifact: MakeArtifact) -> Path:
    """An artifact, and its repository with an engine."""
    place = tmp_path_factory.mktemp("exported")
    folder = make_artifact(place / "artifacts" / "v0.1.0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        export([folder], place / "repository", ALL, capabilities=("8.9", "8.6"))
    return place


@pytest.fixture
def folder(tmp_path: Path, exported: Path) -> Path:
    return shutil.copytree(exported / "artifacts", tmp_path / "artifacts") / "v0.1.0"


@pytest.fixture
def target(tmp_path: Path, exported: Path) -> Path:
    return shutil.copytree(exported / "repository", tmp_path / "repository")


def test_record(target: Path) -> None:
    version = target / "policy_tensorrt-v0.1.0" / "1000"
    assert sorted(path.name for path in version.iterdir()) == [
        "builder.json",
        "model.plan",
        "model.py",
    ]
    record = BuildRecord.load(version / "builder.json")
    assert record.builder == "tensorrt-rtx"
    assert record.version.startswith("1.7.1")
    assert record.compute_capabilities == ("8.6", "8.9")
    assert record.profile == {"min": 1, "opt": 32, "max": MAX_BATCH_SIZE}
    assert record.precision == "FP32, no TF32"
    assert record.source == digest(
        (target / "policy_onnx-v0.1.0" / "1000" / "model.onnx").read_bytes()
    )
    assert record.plan == digest((version / "model.plan").read_bytes())


def test_it_is_in_no_ensemble_that_must_be_ready(target: Path) -> None:
    using = {
        name
        for name in (path.parent.name for path in target.glob("carla_policy*/config.pbtxt"))
        for step in repository.read_config(target, name).ensemble_scheduling.step
        if step.model_name == "policy_tensorrt-v0.1.0"
    }
    assert using == {"carla_policy_tensorrt-v0.1.0"}
    group = repository.read_config(target, "policy_tensorrt-v0.1.0").instance_group[0]
    assert (group.kind, group.gpus) == (group.KIND_GPU, [0])


def test_the_certificate_says_that_it_was_not_measured(target: Path) -> None:
    told = repository.read_config(target, "carla_policy").parameters["certificate"].string_value
    cells = [cell for cell in json.loads(told)["cells"] if cell["format"] == "tensorrt"]
    assert [cell["batch"] for cell in cells] == list(parity.BATCH_SIZES)
    for cell in cells:
        assert (cell["repeats"], cell["max_error"], cell["alone_bit_exact"]) == (0, None, None)
        assert "there is no NVIDIA GPU here" in cell["reason"]


def test_it_cannot_be_served_by_default_unmeasured(target: Path, folder: Path) -> None:
    before = contents(target)
    with pytest.raises(parity.ParityError, match="v0.1.0 as tensorrt can't be compared"):
        export([folder], target, ("tensorrt", "onnx"))
    assert contents(target) == before


def contents(root: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


def test_run_twice_builds_once(target: Path, folder: Path) -> None:
    before = contents(target)
    export([folder], target, ALL, capabilities=("8.6", "8.9"))
    assert contents(target) == before


def test_built_again_for_other_targets_or_a_damaged_plan(target: Path, folder: Path) -> None:
    plan = target / "policy_tensorrt-v0.1.0" / "1000" / "model.plan"
    export([folder], target, ALL)
    record = BuildRecord.load(plan.with_name("builder.json"))
    assert record.compute_capabilities == tensorrt.DEFAULT_CAPABILITIES
    assert record.plan == digest(plan.read_bytes())
    fresh = plan.parents[3] / "fresh"
    shutil.copytree(target, fresh)
    assert comparison.differences(fresh, target) == []
    plan.write_bytes(b"damaged")
    other = plan.with_name("builder.json").read_text().replace(record.source, "sha256:another")
    plan.with_name("builder.json").write_text(other)
    named = [
        f"policy_tensorrt-v0.1.0/1000/{name} differs" for name in ("builder.json", "model.plan")
    ]
    assert comparison.differences(fresh, target) == named
    export([folder], target, ALL)
    record = BuildRecord.load(plan.with_name("builder.json"))
    assert record.plan == digest(plan.read_bytes())


def test_what_the_builder_cannot_do(tmp_path: Path, target: Path) -> None:
    onnx = (target / "policy_onnx-v0.1.0" / "1000" / "model.onnx").read_bytes()
    plan = tmp_path / "model.plan"
    for content, capabilities, message in (
        (onnx, ("9.0",), r"does not build for compute capability 9\.0, but for 7\.5, 8\.0, 8\.6"),
        (onnx, ("7.5",), r"can't build for compute capability 7\.5: .*FP32 GEMM"),
        (b"no model", (), "can't read the policy's ONNX file"),
    ):
        with pytest.raises(tensorrt.BuilderError, match=message):
            tensorrt.write(content, plan, capabilities)
        assert not plan.exists()


def test_no_builder_installed(
    tmp_path: Path, folder: Path, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence with the extra, and other formats work."""
    for module in ("tensorrt", "tensorrt_rtx_bindings", "torch_tensorrt"):
        monkeypatch.setitem(sys.modules, module, None)  # as Python keeps what can't be imported
    target = tmp_path / "repository"
    export = ("export", "--artifacts", str(folder.parent), "--repository", str(target), "--formats")
    missing = command(*export, "onnx,tensorrt")
    assert missing.returncode == 1
    assert "carlarl: tensorrt needs a builder: pip install -e '.[tensorrt]'" in missing.stderr
    assert not target.exists()
    assert command(*export, "onnx").returncode == 0


def test_command_line(tmp_path: Path, folder: Path, command: Run) -> None:
    flag = "--compute-capability"
    target = tmp_path / "repository"
    export = ("export", "--artifacts", str(folder.parent), "--repository", str(target))
    given = command(*export, "--formats", "onnx,tensorrt", flag, "8.6,8.9", flag, "12.0")
    assert given.returncode == 0, given.stderr
    record = target / "policy_tensorrt-v0.1.0" / "1000" / "builder.json"
    assert BuildRecord.load(record).compute_capabilities == ("8.6", "8.9", "12.0")
    bad = command(*export, "--formats", "onnx,tensorrt", flag, "sm86")
    assert "give them like 8.6" in bad.stderr
    assert command(*export, flag, "8.6").returncode == 2
