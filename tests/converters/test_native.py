"""The flavour for a stock Triton: its configs, and its graphs against the Python flavour."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from carlarl.serving.service import start_triton
from converters.artifact import artifact
from converters.export import native, parity
from converters.export.export import export
from converters.export.tensorrt import BuilderError
from converters.repository import configs, repository
from gateway.config.settings import read_settings
from policy_spec.signature import driving_space
from tests.converters.conftest import DEFAULT
from tests.converters.test_preprocessor import assert_same_features, leaves_of, observed
from triton_backend import runtimes
from triton_backend.preprocessing import Preprocessing

MakeArtifact = Callable[..., Path]

NATIVE = configs.FLAVOURS["native"]
EXPECTED = Path(__file__).parent / "expected"


@pytest.mark.parametrize(
    "steps",
    [
        (),
        (("clip", (0.0, 1.0)),),
        (("clip", (-0.0, 1.0)), ("multiply", (-1.0,) * 7), ("clip", (-1.0, 0.0))),
        (("add", (0.1,) * 7), ("subtract", (1 / 3,) * 7), ("divide", (7.0,) * 7)),
    ],
)
def test_features_of_own_steps(steps: tuple[Any, ...]) -> None:
    assert_same_features(Preprocessing(driving_space(5), 3, steps))


def test_what_is_not_finite_does_not_become_a_feature() -> None:
    observations = observed()[:2]
    observations[0, 0] = np.nan
    clipped = Preprocessing(driving_space(5), 3, (("clip", (-1.0, 1.0)),))
    made = native.features(native.graph(clipped), clipped, leaves_of(observations))
    assert np.isnan(made[0, 0])
    assert np.isfinite(made[1]).all()


def test_configs() -> None:
    parameters = {"version": "v1.2.3", "sensors": "5"}
    written = {
        "preprocess": configs.preprocess("v1.2.3", DEFAULT, NATIVE),
        "policy_onnx": configs.policy("v1.2.3", DEFAULT, "onnx", flavour=NATIVE),
        "policy_torchscript": configs.policy("v1.2.3", DEFAULT, "torchscript", flavour=NATIVE),
        "policy_tensorrt": configs.policy("v1.2.3", DEFAULT, "tensorrt", "GPU", NATIVE),
    } | {
        f"ensemble_{form}": configs.ensemble(
            "carla_policy", "v1.2.3", DEFAULT, form, parameters, NATIVE
        )
        for form in ("onnx", "torchscript")
    }
    for name, text in written.items():
        assert text == (EXPECTED / "native" / f"{name}.pbtxt").read_text(), name


@pytest.fixture
def folder(tmp_path: Path, make_artifact: MakeArtifact) -> Path:
    return make_artifact(tmp_path / "artifacts" / "v0.1.0")


@pytest.fixture
def target(tmp_path: Path, folder: Path) -> Path:
    export([folder], tmp_path / "native", flavour="native")
    return tmp_path / "native"


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_files(target: Path) -> None:
    ensembles = ("carla_policy", "carla_policy-v0.1.0", "carla_policy_torchscript-v0.1.0")
    models = {"preprocess-v0.1.0": "model.onnx", "policy_onnx-v0.1.0": "model.onnx"}
    models["policy_torchscript-v0.1.0"] = "model.pt"
    assert sorted(contents(target)) == sorted(
        [f"{name}/{file}" for name in ensembles for file in ("config.pbtxt", "1/.gitkeep")]
        + [f"{name}/1000/{file}" for name, file in models.items()]
        + [f"{name}/config.pbtxt" for name in models]
    )
    told = repository.read_config(target, "carla_policy").parameters
    assert told["flavour"].string_value == "native"
    assert json.loads(told["model_card"].string_value)["model_name"] == "toy"
    assert repository.versions(target)[0].formats == ("onnx", "torchscript")


def test_the_files_together_act_as_the_policy(target: Path, folder: Path) -> None:
    source = artifact.load(folder)
    graph = (target / "preprocess-v0.1.0" / "1000" / "model.onnx").read_bytes()
    features = native.features(graph, source.preprocessing, leaves_of(observed()))
    noise = np.random.default_rng(0).normal(size=(len(features), 3)).astype(np.float32)
    expected = parity.actions(source, features, noise)
    for path in (
        target / "policy_onnx-v0.1.0" / "1000" / "model.onnx",
        target / "policy_torchscript-v0.1.0" / "1000" / "model.pt",
    ):
        open_ = {".onnx": runtimes.onnx, ".pt": runtimes.torchscript}[path.suffix]
        np.testing.assert_allclose(open_(path)(features, noise)[0], expected, rtol=0, atol=1e-5)


def test_tensors_are_those_of_the_files(target: Path) -> None:
    """A C++ backend refuses a config whose tensors its file does not have."""
    for name in ("preprocess-v0.1.0", "policy_onnx-v0.1.0"):
        config = repository.read_config(target, name)
        graph = onnx.load(target / name / "1000" / "model.onnx").graph
        for told, real in ((config.input, graph.input), (config.output, graph.output)):
            shapes = {
                value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
                for value in real
            }
            assert {tensor.name: list(tensor.dims) for tensor in told} == shapes


def test_run_twice_changes_nothing(target: Path, folder: Path) -> None:
    before = contents(target)
    export([folder], target, flavour="native")
    assert contents(target) == before


def test_a_repository_has_one_flavour(target: Path, folder: Path, tmp_path: Path) -> None:
    before = contents(target)
    with pytest.raises(repository.RepositoryError, match="it is of the native flavour"):
        export([folder], target)
    assert contents(target) == before
    export([folder], tmp_path / "python")
    with pytest.raises(repository.RepositoryError, match="it is of the python flavour"):
        export([folder], tmp_path / "python", flavour="native")


def test_the_embedded_triton_does_not_serve_it(target: Path, tmp_path: Path) -> None:
    settings = read_settings(model_repository=target)
    with pytest.raises(repository.RepositoryError, match="it is of the native flavour"):
        start_triton(tmp_path, settings)


def test_an_engine_of_tensorrt_rtx_is_not_for_a_stock_triton(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(BuilderError, match="takes plans of NVIDIA's tensorrt alone"):
        export([folder], tmp_path / "native", ("onnx", "tensorrt"), flavour="native")
    assert not (tmp_path / "native").exists()
