"""Policies with a memory for the tests, and the local policy that their actions are compared to."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from converters.artifact import artifact, pickles
from converters.artifact.artifact import Artifact
from converters.artifact.card import ModelCard
from policy_spec.noise import NoiseSource
from policy_spec.signature import driving_space
from policy_spec.spaces import to_data

LAYERS = 2
NAMES = ("throttle", "brake", "steer")


class Recurrent(nn.Module):
    """Features, h and c → mean, standard deviation, and the next h and c."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, LAYERS)
        self.mean = nn.Linear(hidden, len(NAMES))
        self.log_std = nn.Parameter(torch.full((len(NAMES),), -1.0))

    def forward(self, features: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        state = h.transpose(0, 1).contiguous(), c.transpose(0, 1).contiguous()
        out, (h, c) = self.lstm(features[None] / 10, state)
        mean = self.mean(out[0])
        return mean, self.log_std.exp().expand_as(mean), h.transpose(0, 1), c.transpose(0, 1)


class Forgetful(nn.Module):
    """The same without a memory."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.network, self.hidden = Recurrent(features, hidden), hidden

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        empty = torch.zeros(features.shape[0], LAYERS, self.hidden)
        mean, std, *_ = self.network(features, empty, empty)
        return mean, std


def lstm_artifact(
    folder: Path, version: str, hidden: int = 32, seed: int = 0, *, remembers: bool = True
) -> Artifact:
    """Write an artifact of today's observations and controls, with an LSTM, into `folder`."""
    torch.manual_seed(seed)
    network = (Recurrent if remembers else Forgetful)(7, hidden).eval()
    shape = [LAYERS, hidden]
    state = [torch.zeros(2, *shape)] * 2 if remembers else []
    example = torch.zeros(2, 7), *state
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own layers warn of their checks
        traced = torch.jit.trace(network, example, check_trace=False)
    content = io.BytesIO()
    torch.jit.save(traced, content)
    card = ModelCard(
        model_name="lstm",
        version=version,
        model_type="torchscript",
        framework_version=torch.__version__.partition("+")[0],
        observation_space=to_data(driving_space(5)),
        action_space={
            **{"type": "Box", "dtype": "float32", "shape": [3]},
            **{"low": [0, 0, -1], "high": [1, 1, 1]},
        },
        control={"layout": list(NAMES), "scale": "clip"},
        state={name: {"dtype": "float32", "shape": shape} for name in "hc" if remembers} or None,
        distribution={"std": "parameter"},
        artifact_hashes={},
    )
    content_of = content.getvalue()
    path = artifact.create(
        folder / version, card, content_of, pickles.NOTHING, None, lambda written: None
    )
    return artifact.load(path)


class LocalPolicy:
    """A policy in this process, which remembers."""

    def __init__(self, source: Artifact) -> None:
        self._source = source
        self._noise = NoiseSource(source.preprocessing.kind)
        self._empty = [
            np.zeros((1, *leaf.shape), leaf.dtype) for leaf in source.card.signature.state
        ]
        self.state: Sequence[NDArray[Any]] = self._empty

    def reset(self) -> None:
        self.state = self._empty

    def act(self, observation: dict[str, Any], seed: int | None = None) -> NDArray[np.float32]:
        """Return throttle, brake and steer, sampled with a seed."""
        numbers = [observation["speed"], observation["steering"], *observation["sensors"]]
        flat = np.array([numbers], np.float32)
        features = self._source.preprocessing.features(flat)
        deterministic, row = np.array([seed is None]), np.zeros(1, np.int64)
        noise = self._noise.draw(deterministic, np.array([seed or 0]), row, len(NAMES))
        given = (features, noise, np.zeros((1, 1), bool), *self.state)
        with torch.inference_mode():
            action, *after = self._source.policy(*map(torch.from_numpy, given))
        self.state = [one.numpy() for one in after]
        return action[0].numpy()  # type: ignore[no-any-return]


def observations(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Random observations of today's form, whose numbers are float32."""
    source = np.random.RandomState(seed)
    speeds = source.uniform(0, 200, count).astype(np.float32)
    wheels = source.uniform(-1, 1, count).astype(np.float32)
    sensors = source.uniform(0, 1, (count, 5)).astype(np.float32)
    return [
        {"speed": float(speed), "steering": float(wheel), "sensors": list(map(float, row))}
        for speed, wheel, row in zip(speeds, wheels, sensors, strict=True)
    ]


def numbers(action: dict[str, float]) -> NDArray[np.float32]:
    """Return throttle, brake and steer of an answer."""
    return np.array([action[name] for name in NAMES], np.float32)
