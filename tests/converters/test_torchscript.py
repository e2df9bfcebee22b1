"""A TorchScript program becomes an artifact that acts as the program does."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from converters.artifact import artifact
from converters.artifact.card import ArtifactError
from converters.export import parity
from converters.export.export import export
from converters.importers.torchscript import import_torchscript


class Program(nn.Module):
    def __init__(self, features: int, actions: int, outputs: int = 1) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layers = nn.Sequential(nn.Linear(features, 8), nn.GELU(), nn.Linear(8, actions))
        self.outputs = outputs

    def forward(self, features: Tensor) -> Any:
        mean = self.layers(features) * 3
        if self.outputs == 1:
            return mean
        return (mean, torch.full_like(mean, 0.3)) + (mean,) * (self.outputs - 2)


def _pedals(raw: Any, layout: tuple[str, ...]) -> Any:
    columns = dict(zip(layout, raw.T, strict=True))
    if "acceleration" in columns:
        columns |= {"throttle": columns["acceleration"], "brake": -columns["acceleration"]}
    stacked = np.stack([columns[name] for name in ("throttle", "brake", "steer")], axis=1)
    return np.clip(stacked, (0, 0, -1), (1, 1, 1))


def program(folder: Path, sensors: int = 5, actions: int = 3, outputs: int = 1) -> Path:
    traced = torch.jit.trace(Program(sensors + 2, actions, outputs), torch.zeros(2, sensors + 2))
    traced.save(folder / "program.pt")
    return folder / "program.pt"


def _fields(sensors: int) -> list[str]:
    return ["speed", "steering", f"sensors:{sensors}"]


@pytest.mark.parametrize("squash", ["clip", "tanh"])
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize(
    ("sensors", "layout"),
    [(5, ("throttle", "brake", "steer")), (9, ("steer", "acceleration"))],
)
def test_acts_as_the_program(
    tmp_path: Path, sensors: int, layout: tuple[str, ...], outputs: int, squash: str
) -> None:
    path = program(tmp_path, sensors, len(layout), outputs)
    scaler = StandardScaler().fit(np.random.default_rng(0).normal(3, 5, (50, sensors + 2)))
    (tmp_path / "scaler.pkl").write_bytes(pickle.dumps(scaler))
    folder = import_torchscript(
        path, "v0.3.0", tmp_path / "artifacts", fields=_fields(sensors),
        layout=layout, squash=squash, preprocessor=tmp_path / "scaler.pkl",
    )  # fmt: skip
    source = artifact.load(folder)
    assert source.card.distribution.std == ("none" if outputs == 1 else "parameter")
    observations = np.random.default_rng(1).normal(3, 5, (20, sensors + 2)).astype(np.float32)
    features = scaler.transform(observations.astype(np.float64)).astype(np.float32)
    with torch.inference_mode():
        output = torch.jit.load(path)(torch.from_numpy(features))
    mean = (output if outputs == 1 else output[0]).numpy()
    if squash == "tanh":
        low = np.array([0.0 if name in ("throttle", "brake") else -1.0 for name in layout])
        mean = low + (np.tanh(mean) + 1) / 2 * (1 - low)
    noise = np.zeros((20, len(layout)), np.float32)
    got = parity.actions(source, source.preprocessing.features(observations), noise)
    np.testing.assert_allclose(got, _pedals(mean, layout), atol=1e-5)
    export([folder], tmp_path / "repository")


def test_refused(tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    path = program(tmp_path)
    given: Any = {"fields": _fields(5), "layout": ("throttle", "brake", "steer")}

    def refused(path: Path, **more: Any) -> str:
        with pytest.raises(ArtifactError) as told:
            import_torchscript(path, "v0.3.0", artifacts, **{**given, **more})
        assert "\n" not in str(told.value)
        return str(told.value)

    assert "does not run on two rows of 9 float32 features" in refused(path, fields=_fields(7))
    narrow = refused(path, layout=("steer", "acceleration"))
    assert "it gives 3 numbers for each row, and the action needs 2" in narrow
    wrong = refused(path, layout=("gas", "brake", "steer"))
    assert "--layout: control.layout: must be throttle, brake, steer" in wrong
    assert "it gives 3 outputs" in refused(program(tmp_path, outputs=3))
    torch.save({"weights": torch.zeros(2)}, tmp_path / "weights.pt")
    assert "what torch.save wrote, without a program" in refused(tmp_path / "weights.pt")
    assert not list(artifacts.glob("*"))


def test_a_program_that_does_not_repeat_itself_is_refused(tmp_path: Path) -> None:
    """Its actions are drawn anew each time."""

    class Random(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return torch.rand(features.shape[0], 3) + features[:, :3] * 0

    torch.jit.trace(Random(), torch.zeros(2, 7), check_trace=False).save(tmp_path / "random.pt")
    with pytest.raises(ArtifactError, match="it gives another action for the same observation"):
        import_torchscript(tmp_path / "random.pt", "v0.3.0", tmp_path, fields=["vector:7"])
    assert not list((tmp_path / "artifacts").glob("*"))
