"""Policies on a GPU: what can be checked without one, and with `make test-gpu` the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from converters.artifact import artifact
from converters.export import parity
from converters.export.export import export
from converters.repository import certificate
from tests.converters.policies_of_spaces import make
from tests.stack import ROOT, running_stack
from triton_backend import cuda, runtimes
from triton_backend.preprocessing import FILE_NAME, Preprocessing

REPOSITORY = ROOT / "model_repository"
NUMBERS = {"v0.1.0": "1000", "v0.2.0": "2000"}
FILES = {"onnx": "model.onnx", "torchscript": "model.pt"}
OPEN: dict[str, Callable[[Path, bool], runtimes.Runtime]] = {
    "onnx": runtimes.onnx,
    "torchscript": runtimes.torchscript,
}


def policy(version: str, form: str) -> Path:
    return REPOSITORY / f"policy_{form}-{version}" / NUMBERS[version] / FILES[form]


def inputs(version: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Recorded observations' features, repeated as often as need be, and noise for them."""
    observations = np.load(ROOT / "artifacts" / version / "observations.npy")
    preprocessing = Preprocessing.load(
        REPOSITORY / f"preprocess-{version}" / NUMBERS[version] / FILE_NAME
    )
    features = preprocessing.features(np.resize(observations, (rows, observations.shape[1])))
    noise = np.random.default_rng(rows).standard_normal((rows, preprocessing.noise))
    return features, noise.astype(np.float32)


class CpuGraph:
    """What a captured run is, without a GPU: it computes all its rows, and counts its runs."""

    def __init__(self, infer: runtimes.Runtime, runs: list[int], inputs: cuda.Arrays) -> None:
        self.inputs = inputs
        self._infer, self._runs = infer, runs

    def run(self) -> tuple[np.ndarray, ...]:
        self._runs.append(len(self.inputs[0]))
        return self._infer(*self.inputs)


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [
        (1, [1]),
        (3, [4]),
        (32, [32]),
        (33, [64]),
        (255, [256]),
        (257, [256, 1]),
        (600, [256, 256, 128]),
    ],
)
def test_a_batch_takes_the_next_larger_graphs(rows: int, sizes: list[int]) -> None:
    infer, runs = runtimes.onnx(policy("v0.2.0", "onnx")), list[int]()
    graphs = cuda.Graphs(lambda inputs: CpuGraph(infer, runs, inputs))
    graphs(*inputs("v0.2.0", 256))  # what it leaves must not show
    features, noise = inputs("v0.2.0", rows)
    (made,), (expected,) = graphs(features, noise), infer(features, noise)
    assert made.tobytes() == expected.tobytes()
    assert runs[1:] == sizes


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ("torchscript", r"PyTorch .* can use no GPU here: install a build with CUDA"),
        ("onnx", r"CUDAExecutionProvider"),
    ],
)
def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, form: str, sentence: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the same on a machine that has one
    with pytest.raises(cuda.NoGpuError, match=sentence):
        OPEN[form](policy("v0.2.0", form), True)


@pytest.mark.gpu
@pytest.mark.parametrize("version", NUMBERS)
@pytest.mark.parametrize("form", FILES)
def test_answers_as_the_cpu(version: str, form: str) -> None:
    reference = runtimes.onnx(policy(version, "onnx"))
    torch.set_float32_matmul_precision("medium")  # what is opened must not take TF32 for it
    infer = OPEN[form](policy(version, form), True)
    for rows in (1, 2, 3, 8, 31, 32, 100, 256, 257, 1000, 1):  # back to few after many
        features, noise = inputs(version, rows)
        given = features.copy(), noise.copy()
        (action,) = infer(features, noise)
        assert action.shape == (rows, 3)
        np.testing.assert_allclose(action, reference(*given)[0], rtol=0, atol=1e-5)
        assert features.tobytes() == given[0].tobytes()


@pytest.mark.gpu
@pytest.mark.parametrize("form", FILES)
def test_an_answer_stays_when_the_next_is_computed(form: str) -> None:
    infer = OPEN[form](policy("v0.2.0", form), True)
    (first,) = infer(*inputs("v0.2.0", 4))
    kept = first.copy()
    infer(*(-values for values in inputs("v0.2.0", 4)))
    assert first.tobytes() == kept.tobytes()


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(84, 84, 4), (96, 96, 3)])
def test_a_policy_that_sees(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """In FP32 within the CPU's tolerance, and in FP16 within its own, as its certificate says."""
    image = {"type": "Box", "dtype": "uint8", "shape": list(shape), "low": 0, "high": 255}
    pedals = {"type": "Box", "dtype": "float32", "shape": [3], "low": -1, "high": 1}
    spaces = {"observation_space": image, "action_space": pedals}
    folder = make(tmp_path / "v1.0.0", spaces | {"distribution": {"std": "parameter"}})
    export([folder], target := tmp_path / "repository", ("torchscript",), precision="fp16")
    told = certificate.read(target, "v1.0.0")
    exact, halved = certificate.lines("v1.0.0", told)
    assert (exact.format, halved.format) == ("torchscript", "torchscript fp16")
    assert float(exact.parity) < parity.TOLERANCE < float(halved.parity) <= told["fp16_tolerance"]
    (path,) = target.glob("policy_torchscript-v1.0.0/*/model.pt")
    parity.measure(artifact.load(folder), "torchscript", runtimes.torchscript(path, True))


@pytest.mark.gpu
@pytest.mark.parametrize("version", NUMBERS)
def test_serve_on_the_gpu(version: str) -> None:
    observations = np.load(ROOT / "artifacts" / version / "observations.npy")[:256]
    seen = [
        {"speed": row[0], "steering": row[1], "sensors": row[2:]} for row in observations.tolist()
    ]
    request = {"observations": seen, "deterministic": True, "version": version}
    features, noise = inputs(version, len(seen))
    expected = runtimes.onnx(policy(version, "onnx"))(features, 0 * noise)[0]
    with running_stack(USE_GPU="1") as stack, httpx.Client(base_url=stack.gateway_url) as client:
        metadata = client.get("/metadata").json()
        assert metadata["device"] == client.get("/healthz").json()["device"] == "cuda"
        answer = client.post("/predict", json=request).json()
    actions = [[one["throttle"], one["brake"], one["steer"]] for one in answer["actions"]]
    np.testing.assert_allclose(actions, expected, rtol=0, atol=1e-5)
