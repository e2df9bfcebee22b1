"""A repository that serves the versions of another one on another device, or in another format."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from converters.repository import placement, repository
from converters.repository.repository import RepositoryError
from tests.stack import ROOT, running_stack


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the default repository that a test may change."""
    shutil.copytree(ROOT / "model_repository", tmp_path / "model_repository")
    return tmp_path / "model_repository"


def test_torchscript_on_the_gpu(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "placed"
    placement.place(source, target, "torchscript", "GPU")
    assert {path.name for path in target.iterdir()} == {path.name for path in source.iterdir()}
    for model in (
        "policy_torchscript-v0.1.0",
        "carla_policy_fused-v0.1.0",
        "carla_policy_fused-v0.2.0",
    ):
        (group,) = repository.read_config(target, model).instance_group
        assert (group.kind, group.gpus, group.count) == (group.KIND_GPU, [0], 1)
        before = repository.read_config(source, model)
        changed = repository.read_config(target, model)
        del before.instance_group[:], changed.instance_group[:]
        assert changed == before
    for version, number in (("v0.1.0", 1000), ("v0.2.0", 2000)):
        ensemble = repository.read_config(target, f"carla_policy-{version}")
        steps = [(one.model_name, one.model_version) for one in ensemble.ensemble_scheduling.step]
        assert steps == [
            (f"preprocess-{version}", number),
            (f"policy_torchscript-{version}", number),
        ]
        assert ensemble.parameters["format"].string_value == "torchscript"
        fused = target / f"carla_policy_fused-{version}" / "1"
        names = sorted(path.name for path in fused.iterdir())
        assert names == ["model.pt", "model.py", "preprocessing.json"]
        policy = source / f"policy_torchscript-{version}" / str(number) / "model.pt"
        assert (fused / "model.pt").samefile(policy)
    for model in (
        "preprocess-v0.1.0",
        "policy_onnx-v0.1.0",
        "carla_policy",
        "carla_policy_torchscript-v0.1.0",
    ):
        assert (target / model).samefile(source / model)


def test_onnx_on_the_gpu_keeps_its_files(source: Path, tmp_path: Path) -> None:
    placement.place(source, tmp_path / "placed", "onnx", "GPU")
    fused = tmp_path / "placed" / "carla_policy_fused-v0.2.0"
    assert (fused / "1" / "model.onnx").samefile(
        source / "policy_onnx-v0.2.0" / "2000" / "model.onnx"
    )
    group = repository.read_config(tmp_path / "placed", "policy_onnx-v0.2.0").instance_group[0]
    assert group.kind == group.KIND_GPU
    assert (tmp_path / "placed" / "policy_torchscript-v0.2.0").samefile(
        source / "policy_torchscript-v0.2.0"
    )


def test_a_version_without_the_format_stays_as_it_is(source: Path, tmp_path: Path) -> None:
    shutil.rmtree(source / "policy_torchscript-v0.1.0" / "1000")
    placement.place(source, tmp_path / "placed", "torchscript", "GPU")
    for model in ("carla_policy-v0.1.0", "carla_policy_fused-v0.1.0"):
        assert (tmp_path / "placed" / model).samefile(source / model)
    assert not (tmp_path / "placed" / "carla_policy-v0.2.0").is_symlink()


def test_no_repository(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="no such model repository"):
        placement.place(tmp_path / "none", tmp_path / "placed", "onnx", "GPU")


@pytest.mark.reliability
@pytest.mark.live
def test_it_is_served_and_promoted(
    source: Path, tmp_path: Path, carlarl: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """TorchScript on the CPU, where every machine can see that Triton follows the links."""
    placement.place(source, tmp_path / "placed", "torchscript", "CPU")
    config = repository.read_config(source, "carla_policy-v0.1.0")
    golden = json.loads(config.parameters["golden"].string_value)
    request = {"observations": golden["observations"], "deterministic": True}
    with running_stack(MODEL_REPOSITORY=str(tmp_path / "placed")) as stack:
        metadata = httpx.get(f"{stack.gateway_url}/metadata").json()
        assert (metadata["format"], metadata["version"]) == ("torchscript", "v0.2.0")
        promoted = carlarl(
            "promote", "v0.1.0", "--repository", str(source), "--triton", f"http://{stack.triton_http}"
        )  # fmt: skip
        assert promoted.returncode == 0, promoted.stderr
        answer = httpx.post(f"{stack.gateway_url}/predict", json=request | {"version": "v0.1.0"})
    actions = [[one["throttle"], one["brake"], one["steer"]] for one in answer.json()["actions"]]
    np.testing.assert_allclose(actions, golden["actions"], rtol=0, atol=golden["tolerance"])
