"""TorchScript programs that can't be served as they are: each is named in one sentence."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from converters.artifact import artifact, pickles
from converters.artifact.card import ModelCard
from converters.errors import ConversionError
from converters.export import parity
from converters.export.export import export
from converters.repository import repository

BOX = {"type": "Box", "dtype": "float32", "shape": [3], "low": -5, "high": 5}
ACTION = {"type": "Box", "dtype": "float32", "shape": [2], "low": -1, "high": 1}


class Program(nn.Module):
    """A policy with one layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class NoOperator(Program):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.i1e(self.layer(x))


class Remembers(Program):
    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        return self.layer(x)


class TwoRows(Program):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).reshape(4).reshape(2, 2)


class Raises(Program):
    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 1):
            raise RuntimeError("out of road")
        return self.layer(x)


class Draws(Program):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + torch.rand(1)


class Integers(Program):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).long()


class Wide(Program):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.layer(x), x], dim=1)


class Float64(Program):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).to(torch.float64)


class BFloat16(Program):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).to(torch.bfloat16)


class NoForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    @torch.jit.export
    def act(self, x: Tensor) -> Tensor:
        return self.layer(x)


def create(folder: Path, module: nn.Module, *, traced: bool = False, **card: Any) -> Path:
    """Write the artifact of a program."""
    made: Any = torch.jit.script(module) if not traced else None
    if traced:
        made = torch.jit.trace(module, torch.zeros(2, 3), check_trace=False)
    buffer = io.BytesIO()
    torch.jit.save(made, buffer)
    signature = {"observation_space": BOX, "action_space": ACTION} | card
    told = {"model_name": "toy", "framework_version": "2.13.0", "artifact_hashes": {}}
    told |= {"version": folder.name, "model_type": "torchscript"}
    written = ModelCard.model_validate(told | signature)
    return artifact.create(
        folder, written, buffer.getvalue(), pickles.NOTHING, None, lambda _: None
    )


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (NoOperator(), "as onnx: ONNX has no operator for aten::special_i1e: .*--formats torch"),
        (Remembers(), "changes its own attribute steps"),
        (TwoRows(), "runs on two rows and not on three"),
        (Raises(), "out of road"),
        (Draws(), "another action each time"),
        (Integers(), "something else than tensors of floats"),
        (Wide(), r"gives the shape \(2, 5\), not \(2, 2\)"),
        (NoForward(), "no attribute 'forward'"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], module: nn.Module, message: str
) -> None:
    target = tmp_path / "repository"
    with pytest.raises(ConversionError, match=message) as told:
        export([create(tmp_path / "v1.0.0", module, traced=isinstance(module, TwoRows))], target)
    assert "\n" not in str(told.value)
    assert "Traceback" not in str(told.value)
    assert capfd.readouterr() == ("", "")
    assert not target.exists()


def test_without_onnx_it_is_exported(tmp_path: Path) -> None:
    export([create(tmp_path / "v1.0.0", NoOperator())], tmp_path / "repository", ["torchscript"])
    assert repository.versions(tmp_path / "repository")[0].formats == ("torchscript",)


@pytest.mark.parametrize("module", [Float64(), BFloat16()], ids=lambda one: type(one).__name__)
def test_another_type_is_cast(tmp_path: Path, module: nn.Module) -> None:
    folder = create(tmp_path / "v1.0.0", module)
    source = artifact.load(folder)
    features, noise = parity.probes(source)
    actions = parity.actions(source, features, noise)
    assert actions.dtype == np.float32
    with torch.inference_mode():
        expected = module(torch.from_numpy(features)).float().clamp(-1, 1).numpy()
    np.testing.assert_allclose(actions, expected, atol=1e-6)
    export([folder], tmp_path / "repository")


def test_an_export_in_another_type_is_refused(tmp_path: Path) -> None:
    source = artifact.load(create(tmp_path / "v1.0.0", Program()))

    def runtime(features: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, ...]:
        return (parity.actions(source, features, noise).astype(np.float64),)

    with pytest.raises(parity.ParityError, match="float64"):
        parity.measure(source, "onnx", runtime)


def test_rounding_at_large_numbers_is_no_difference(tmp_path: Path) -> None:
    """A policy with 275 inputs up to ±1000, like a known simulator's expert."""
    torch.manual_seed(0)
    layers = [nn.Linear(275, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 2)]
    space = {**BOX, "shape": [275], "low": -1000, "high": 1000}
    example = nn.Sequential(*layers)
    program = torch.jit.trace(example, torch.zeros(2, 275))
    folder = create(tmp_path / "v1.0.0", program, observation_space=space)
    export([folder], tmp_path / "repository")
