"""Stable-Baselines3 policies trained for a moment on the example track."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import A2C, PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from examples.track import TrackEnv

PRESETS: dict[str, tuple[Any, dict[str, Any]]] = {
    "PPO": (PPO, {"n_steps": 64, "batch_size": 32, "n_epochs": 2}),
    "A2C": (A2C, {"n_steps": 16}),
    "SAC": (SAC, {"learning_starts": 32, "batch_size": 16}),
    "TD3": (TD3, {"learning_starts": 32, "batch_size": 16}),
}


class SteerAndAcceleration(gymnasium.ActionWrapper[Any, Any, Any]):
    """The track driven by (steer, acceleration), the acceleration within bounds of its own."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.action_space = gymnasium.spaces.Box(
            np.array([-1, -0.6], np.float32), np.array([1, 0.8], np.float32)
        )

    def action(self, action: Any) -> Any:
        steer, acceleration = action
        return np.array([max(acceleration, 0), max(-acceleration, 0), steer], np.float32)


def environment(actions: int) -> Any:
    track = TrackEnv(max_steps=50)
    return track if actions == 3 else SteerAndAcceleration(track)


def train(
    folder: Path, algorithm: str, *, actions: int, normalised: bool, **options: Any
) -> tuple[Any, Path, Path | None]:
    """Train for 128 steps; give the model, its .zip, and its statistics' file if there are any."""
    folder.mkdir(parents=True, exist_ok=True)
    kind, preset = PRESETS[algorithm]
    env: Any = DummyVecEnv([lambda: environment(actions)])
    if normalised:
        env = VecNormalize(env, clip_obs=2.0)
    layers = {"net_arch": [16, 16], "activation_fn": torch.nn.ReLU}
    model = kind(
        "MlpPolicy", env, seed=3, device="cpu", **{**preset, "policy_kwargs": layers, **options}
    )
    model.learn(128)
    model.save(folder / "policy.zip")
    if not normalised:
        return model, folder / "policy.zip", None
    env.save(str(folder / "vecnormalize.pkl"))
    return model, folder / "policy.zip", folder / "vecnormalize.pkl"


def predict(model: Any, observations: Any, actions: int) -> Any:
    """The library's own deterministic actions: raw observations → (throttle, brake, steer)."""
    normalize = model.get_vec_normalize_env()
    seen = observations if normalize is None else normalize.normalize_obs(observations)
    raw, _ = model.predict(seen, deterministic=True)
    if actions == 3:
        return raw
    steer, acceleration = raw.T
    return np.stack([np.maximum(acceleration, 0), np.maximum(-acceleration, 0), steer], axis=1)
