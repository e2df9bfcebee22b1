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
from converters.importers import writer
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


def program(folder: Path, sensors: int = 5, actions: int = 3, outputs: int = 1) -> Path:
    traced = torch.jit.trace(Program(sensors + 2, actions, outputs), torch.zeros(2, sensors + 2))
    traced.save(folder / "program.pt")
    return folder / "program.pt"


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
        path, "v0.3.0", tmp_path / "artifacts", sensors=sensors,
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
    np.testing.assert_allclose(got, writer.pedals(mean, source.card.action), atol=1e-5)
    export([folder], tmp_path / "repository")


def test_refused(tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    path = program(tmp_path)
    with pytest.raises(ArtifactError, match="does not run on two rows of 9 features"):
        import_torchscript(path, "v0.3.0", artifacts, sensors=7)
    with pytest.raises(ArtifactError, match=r"shape \(2, 3\), and the layout steer,acceleration"):
        import_torchscript(path, "v0.3.0", artifacts, sensors=5, layout=("steer", "acceleration"))
    with pytest.raises(ArtifactError, match="action.layout: must be throttle"):
        import_torchscript(path, "v0.3.0", artifacts, sensors=5, layout=("gas", "brake", "steer"))
    with pytest.raises(ArtifactError, match="a mean, or a mean and a standard deviation"):
        import_torchscript(program(tmp_path, outputs=3), "v0.3.0", artifacts, sensors=5)
    torch.save({"weights": torch.zeros(2)}, tmp_path / "weights.pt")
    with pytest.raises(ArtifactError, match="what torch.save wrote, without a program, not a Tor"):
        import_torchscript(tmp_path / "weights.pt", "v0.3.0", artifacts, sensors=5)
    assert not list(artifacts.glob("*"))


def test_a_program_that_does_not_repeat_itself_is_refused(tmp_path: Path) -> None:
    """The comparison is a real one: it sees a program whose actions are drawn anew each time."""

    class Random(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return torch.rand(features.shape[0], 3) + features[:, :3] * 0

    torch.jit.trace(Random(), torch.zeros(2, 7), check_trace=False).save(tmp_path / "random.pt")
    with pytest.raises(ArtifactError, match="its actions differ from the program's own by"):
        import_torchscript(tmp_path / "random.pt", "v0.3.0", tmp_path / "artifacts", sensors=5)
    assert not list((tmp_path / "artifacts").glob("*"))
