"""A policy that sees acts, once imported, as Stable-Baselines3 has it act."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3

from converters.artifact import artifact
from converters.artifact.artifact import Artifact
from converters.export import parity
from converters.importers.sb3 import import_sb3
from tests.converters.test_sb3_zip import observations

KINDS = {kind.__name__: kind for kind in (PPO, A2C, SAC, TD3, DDPG, DQN)}
CAMERA = spaces.Box(0, 255, (36, 40, 3), np.uint8)
VIEW = spaces.Dict(
    {
        "speed": spaces.Box(0, 50, (2,)),
        "gear": spaces.Discrete(3),
        "camera": CAMERA,
        "map": spaces.Box(0, 255, (40, 36, 1), np.uint8),
    }
)
SMALL: dict[str, Any] = {"net_arch": [8]}
WHEEL = spaces.Box(np.array([-1, -2], np.float32), np.array([1, 3], np.float32))


class Random(gymnasium.Env[Any, Any]):
    """Observations and rewards by chance."""

    def __init__(self, observation: Any, action: Any) -> None:
        self.observation_space, self.action_space = observation, action
        self.steps = 0

    def reset(self, **_: Any) -> Any:
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps > 9, False, {}


def train(
    folder: Path,
    kind: Any,
    observation: Any,
    *,
    policy: str | None = None,
    env: Any = None,
    action: Any = None,
    learn: int = 12,
    **keywords: Any,
) -> Any:
    """Save a policy to `policy.zip`, with weights that make images count, and return the model."""
    torch.manual_seed(3)
    if kind in (PPO, A2C):
        options: dict[str, Any] = {"n_steps": 6}
        options |= {"batch_size": 6, "n_epochs": 1} if kind is PPO else {}
    else:
        options = {"buffer_size": 32, "learning_starts": 100}
    dictionary = isinstance(observation, spaces.Dict)
    action = action or (spaces.Discrete(5) if kind is DQN else WHEEL)
    size = {"cnn_output_dim" if dictionary else "features_dim": 8}
    arguments = {"policy_kwargs": SMALL | {"features_extractor_kwargs": size}}
    name = policy or ("MultiInputPolicy" if dictionary else "CnnPolicy")
    model = kind(
        name,
        env or Random(observation, action),
        device="cpu",
        seed=1,
        **options | arguments | keywords,
    )
    model.learn(learn)
    with torch.no_grad():
        for weights in model.policy.parameters():
            weights += 0.1 * torch.randn(weights.shape) * (weights.dim() > 1)
    model.save(folder / "policy.zip")
    return model


def load(folder: Path, **options: Any) -> Artifact:
    """Import `policy.zip`."""
    return artifact.load(
        import_sb3(folder / "policy.zip", "v1.0.0", folder / "artifacts", **options)
    )


def given(source: Artifact, batch: Any) -> Any:
    """Features, zeros for noise, and rasters of a batch."""
    return parity.inputs(source, tuple(batch.values()) if isinstance(batch, dict) else (batch,))


def act(source: Artifact, batch: Any) -> Any:
    """The deterministic actions for a batch."""
    with torch.inference_mode():
        return source.policy(*map(torch.from_numpy, given(source, batch))).numpy()


def seen(space: Any, count: int) -> Any:
    """Observations, with images from dark to bright."""
    batch = observations(space, count)
    if not isinstance(batch, dict):
        light = np.random.default_rng(1).uniform(0, 1, (count, 1, 1, 1))
        return (batch * light).astype(batch.dtype)
    return {k: seen(space[k], count) if rows.ndim == 4 else rows for k, rows in batch.items()}


@pytest.mark.parametrize("space", [CAMERA, VIEW], ids=["CnnPolicy", "MultiInputPolicy"])
@pytest.mark.parametrize("name", KINDS)
def test_acts_as_predict(name: str, space: Any, tmp_path: Path) -> None:
    model = train(tmp_path, KINDS[name], space)
    source = load(tmp_path)
    batch = seen(space, 1000)
    expected, _ = model.predict(batch, deterministic=True)
    found = act(source, batch)
    np.testing.assert_allclose(found, expected.reshape(1000, -1), rtol=0, atol=1e-5)
    if name != "DQN":
        assert found.std(0).max() > 0.1
        return
    with torch.inference_mode():  # its choice may be the same for all
        expected = model.q_net(model.policy.obs_to_tensor(batch)[0])
        scores = source.policy.scores(*map(torch.from_numpy, given(source, batch)))
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)
