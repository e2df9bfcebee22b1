"""Whether an engine runs on a machine, and what is said where it does not."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from carlarl.serving.cleanup import own_folder
from carlarl.serving.triton_server import TritonServer
from converters.export import tensorrt
from converters.repository.configs import policy
from tests.converters.conftest import DEFAULT
from tests.stack import ROOT, free_ports
from triton_backend import runtimes
from triton_backend.engine import BuildRecord, Machine, UnusableEngineError, refusal

RECORD = BuildRecord(
    builder="tensorrt-rtx",
    version="1.7.1.116",
    compute_capabilities=("8.6", "12.0"),
    profile={"min": 1, "opt": 32, "max": 256},
    precision="FP32",
    source="sha256:0",
    plan="sha256:1",
)


def test_a_machine_that_can() -> None:
    for capability in ("8.6", "12.0"):
        assert refusal(RECORD, Machine("1.7.1.116", capability)) is None


@pytest.mark.parametrize(
    ("record", "machine", "sentence"),
    [
        (RECORD, Machine(None, "8.6"), "which is not installed here: pip install -e '.[tenso"),
        (RECORD, Machine("1.6.1.120", "8.6"), "1.6.1.120 is installed here: install that version"),
        (RECORD, Machine("1.7.1.116", None), "there is no NVIDIA GPU here"),
        (
            RECORD,
            Machine("1.7.1.116", "9.0"),
            "for compute capability 8.6, 12.0, and the GPU here has 9.0: export again with",
        ),
        (replace(RECORD, builder="tensorrt"), Machine(None, None), "'.[gpu]'"),
        (replace(RECORD, builder="caffe"), Machine("1", "8.6"), "built by 'caffe', and only"),
    ],
)
def test_a_machine_that_cannot(record: BuildRecord, machine: Machine, sentence: str) -> None:
    reason = refusal(record, machine)
    assert reason is not None
    assert sentence in reason
    assert "\n" not in reason


def test_record_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "builder.json"
    path.write_text(RECORD.dumps())
    assert BuildRecord.load(path) == RECORD
    for text in ("{}", "[]", "no JSON", json.dumps({"builder": "tensorrt"})):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"builder\.json: no record"):
            BuildRecord.load(path)


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on a machine that has one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A real engine where `policy_tensorrt-v0.2.0` has it."""
    onnx = ROOT / "model_repository" / "policy_onnx-v0.2.0" / "2000" / "model.onnx"
    path = tmp_path / "policy_tensorrt-v0.2.0" / "2000" / "model.plan"
    path.parent.mkdir(parents=True)
    tensorrt.write(onnx.read_bytes(), path, ("8.6",))
    return path


def test_refused_without_a_gpu(plan: Path) -> None:
    with pytest.raises(UnusableEngineError, match="there is no NVIDIA GPU here"):
        runtimes.tensorrt(plan)


@pytest.mark.parametrize(
    ("device", "sentence"),
    [
        ("CPU", "UnusableEngineError: the engine was built by tensorrt-rtx 1.7"),
        ("GPU", "unsupported gpu id 0"),
    ],
)
def test_triton_tells_why(plan: Path, device: str, sentence: str) -> None:
    """A live Triton without a GPU: it looks for one itself, and the model does where it may try."""
    (plan.parent / "model.py").write_text(
        "from triton_backend.policy import TensorRTPolicy as TritonPythonModel\n"
    )
    config = policy("v0.2.0", DEFAULT, "tensorrt", device)
    (plan.parents[1] / "config.pbtxt").write_text(config)
    http, grpc, metrics = free_ports(3)
    with own_folder() as folder:
        server = TritonServer(
            folder,
            plan.parents[2],
            ["policy_tensorrt-v0.2.0"],
            http=http,
            grpc=grpc,
            metrics=metrics,
        )
        try:
            deadline = time.monotonic() + 60
            while server.exit_code() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            assert server.exit_code() == 1
        finally:
            server.stop()
    assert sentence in server.log_tail()
