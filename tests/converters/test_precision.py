"""FP16: where it is asked for, what it may differ, and what is said where no GPU is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converters.artifact import artifact
from converters.export import parity, tensorrt
from converters.export.export import export
from converters.export.formats import ExportError
from converters.export.validation import validate
from converters.repository import certificate, configs, repository
from tests.converters.policies_of_spaces import make
from triton_backend import cuda, runtimes
from triton_backend.engine import BuildRecord, digest

CNN = {
    "observation_space": {
        "type": "Box", "dtype": "uint8", "shape": [84, 84, 4], "low": 0, "high": 255,
    },
    "action_space": {"type": "Box", "dtype": "float32", "shape": [3], "low": -1, "high": 1},
    "distribution": {"std": "parameter"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on a machine that has one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "artifacts" / "v1.0.0", CNN)


def contents(tree: Path, *suffixes: str) -> dict[str, bytes]:
    files = (path for path in tree.rglob("*") if path.is_file() and path.suffix in suffixes)
    return {str(path.relative_to(tree)): path.read_bytes() for path in files}


def test_a_cpu_serves_the_same_files(tmp_path: Path, folder: Path) -> None:
    """The GPU's precision is a parameter of the models; the certificate says what is unknown."""
    target, plain = tmp_path / "fp16", tmp_path / "fp32"
    export([folder], target, precision="fp16")
    export([folder], plain)
    assert contents(target, ".pt", ".onnx", ".py") == contents(plain, ".pt", ".onnx", ".py")
    assert not any(b"fp16" in config for config in contents(plain, ".pbtxt").values())
    for model in ("policy_torchscript-v1.0.0", "carla_policy_fused-v1.0.0", "carla_policy"):
        config = repository.read_config(target, model)
        assert config.parameters["precision"].string_value == "fp16"
    told = certificate.read(target, "v1.0.0")
    assert (told["tolerance"], told["fp16_tolerance"]) == (1e-5, 1e-2)
    assert json.loads(config.parameters["golden"].string_value)["tolerance"] == 1e-2
    *exact, halved = certificate.lines("v1.0.0", told)
    assert {line.format for line in exact} == {"onnx", "torchscript"}
    assert (halved.format, halved.parity) == ("torchscript fp16", "not measured")
    assert "can use no GPU here" in told["cells"][-1]["reason"]
    checks = list(validate("v1.0.0", folder.parent, target))
    assert [check.found for check in checks if not check.ok] == []


def test_measured_on_another_machine(tmp_path: Path, folder: Path) -> None:
    """Where no GPU is, what a certificate claims of one is not refuted."""
    export([folder], target := tmp_path / "fp16", precision="fp16")
    for model in ("carla_policy-v1.0.0", "carla_policy_torchscript-v1.0.0", "carla_policy"):
        config = repository.read_config(target, model)
        told = json.loads(config.parameters["certificate"].string_value)
        for cell in told["cells"][-5:]:
            assert (cell["format"], cell["precision"]) == ("torchscript", "fp16")
            assert "can use no GPU here" in cell.pop("reason")
            figures = {"repeats": 3, "max_error": 1e-3, "repeats_error": 0.0, "alone_error": 0.0}
            exact = {"repeats_bit_exact": True, "alone_bit_exact": True}
            cell |= figures | exact
        config.parameters["certificate"].string_value = json.dumps(told)
        (target / model / "config.pbtxt").write_text(configs.text(config))
    checks = list(validate("v1.0.0", folder.parent, target))
    assert [check.found for check in checks if not check.ok] == []


def test_an_engine(tmp_path: Path, folder: Path) -> None:
    export([folder], tmp_path / "fp16", ("onnx", "tensorrt"), None, precision="fp16")
    (plan,) = (tmp_path / "fp16").glob("policy_tensorrt-v1.0.0/*/model.plan")
    (onnx,) = (tmp_path / "fp16").glob("policy_onnx-v1.0.0/*/model.onnx")
    record = BuildRecord.load(plan.with_name("builder.json"))
    assert (record.precision, record.source) == (tensorrt.HALF, digest(onnx.read_bytes()))
    lines = certificate.lines("v1.0.0", certificate.read(tmp_path / "fp16", "v1.0.0"))
    assert [line.format for line in lines] == ["onnx", "tensorrt fp16"]
    assert lines[1].parity == "not measured"


def test_what_it_may_differ(tmp_path: Path, folder: Path) -> None:
    """The same arithmetic on the CPU: TorchScript's, and the file that an engine is made from."""
    export([folder], tmp_path / "fp32")
    (path,) = (tmp_path / "fp32").glob("policy_torchscript-v1.0.0/*/model.pt")
    program = torch.jit.load(str(path)).eval()

    def halved(*inputs: np.ndarray[Any, Any]) -> runtimes.Arrays:
        with torch.inference_mode(), torch.autocast("cpu", torch.float16, cache_enabled=False):
            return (program(*map(torch.from_numpy, inputs)).numpy(),)

    (onnx,) = (tmp_path / "fp32").glob("policy_onnx-v1.0.0/*/model.onnx")
    (tmp_path / "halved.onnx").write_bytes(tensorrt.halved(onnx.read_bytes()))
    source = artifact.load(folder)
    for runtime in (halved, runtimes.onnx(tmp_path / "halved.onnx")):
        cells = parity.measure(source, "any", runtime, half=True)
        assert {cell["precision"] for cell in cells} == {"fp16"}
        assert all(1e-5 < cell["max_error"] <= 1e-2 for cell in cells)
        with pytest.raises(parity.ParityError, match="allowed is 1e-05"):
            parity.measure(source, "any", runtime)


@pytest.mark.parametrize(
    ("formats", "flavour"), [(("onnx",), "python"), (("onnx", "torchscript"), "native")]
)
def test_formats_without_it(
    tmp_path: Path, folder: Path, formats: tuple[str, ...], flavour: str
) -> None:
    with pytest.raises(ExportError, match="FP16 is for torchscript and tensorrt on a GPU"):
        export([folder], tmp_path / "new", formats, flavour=flavour, precision="fp16")
    assert not (tmp_path / "new").exists()


def test_onnx_on_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(cuda.NoGpuError, match="in FP16 a GPU runs this policy as torchscript"):
        runtimes.onnx(tmp_path / "model.onnx", gpu=True, half=True)
