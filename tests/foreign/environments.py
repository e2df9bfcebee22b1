"""Environments of other projects, and what trains a policy in each for about a minute or two."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import highway_env
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

gymnasium.register_envs(highway_env)

GRAY = {
    "type": "GrayscaleObservation",
    "observation_shape": (84, 42),
    "stack_size": 4,
    "weights": [0.2989, 0.5870, 0.1140],
    "scaling": 1.75,
}


@dataclass(frozen=True)
class Foreign:
    """An environment with its settings, and how its policy is trained.

    Attributes:
        name: of the environment, as `gymnasium.make` takes it.
        settings: `gymnasium.make`'s keywords.
        sees: the observation, in words.
        algorithm: of Stable-Baselines3, with its policy and its keywords.
        steps: of training.
        normalised: whether it is trained behind `VecNormalize`.
        flags: of `carlarl import-sb3`.
        longest: steps of an episode that is compared, at most.
    """

    name: str
    sees: str
    algorithm: type[BaseAlgorithm]
    policy: str
    steps: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    keywords: Mapping[str, Any] = field(default_factory=dict)
    normalised: bool = False
    flags: tuple[str, ...] = ()
    longest: int = 200

    def make(self) -> gymnasium.Env[Any, Any]:
        """Return the environment."""
        return gymnasium.make(self.name, **self.settings)

    def train(self, folder: Path) -> None:
        """Train a policy, and save it with its statistics."""
        env: Any = DummyVecEnv([self.make])
        if self.normalised:
            env = VecNormalize(env)
        kind: Callable[..., BaseAlgorithm] = self.algorithm
        model = kind(self.policy, env, seed=0, device="cpu", **self.keywords)
        model.learn(self.steps)
        model.save(folder / "policy.zip")
        if self.normalised:
            env.save(str(folder / "vecnormalize.pkl"))

    def predictor(self, folder: Path) -> Callable[[Any], Any]:
        """Return what acts as the saved policy does in the process that trained it."""
        model = self.algorithm.load(folder / "policy.zip", device="cpu")
        env: Any = DummyVecEnv([self.make])
        if self.normalised:
            env = VecNormalize.load(str(folder / "vecnormalize.pkl"), env)
            env.training = False

        def predict(observation: Any) -> Any:
            seen = env.normalize_obs(observation) if self.normalised else observation
            return model.predict(seen, deterministic=True)[0]

        return predict


SHORT = {"n_steps": 256, "batch_size": 64, "n_epochs": 5}
FOREIGN = {
    "kinematics": Foreign(
        name="highway-fast-v0",
        sees="matrix of 5 vehicles × 5 numbers",
        algorithm=DQN,
        policy="MlpPolicy",
        steps=4000,
        keywords={"learning_starts": 200, "policy_kwargs": {"net_arch": [256, 256]}},
    ),
    "grayscale": Foreign(
        name="highway-fast-v0",
        sees="4 grayscale images of 84 × 42, uint8",
        algorithm=PPO,
        policy="CnnPolicy",
        steps=1024,
        settings={"config": {"observation": GRAY}},
        flags=("--image-layout", "chw"),
        keywords=SHORT,
    ),
    "parking": Foreign(
        name="parking-v0",
        sees="Dict: observation, achieved goal, desired goal",
        algorithm=SAC,
        policy="MultiInputPolicy",
        steps=1500,
        keywords={"learning_starts": 200},
        longest=100,
    ),
    "racetrack": Foreign(
        name="racetrack-v0",
        sees="occupancy grid, 2 × 12 × 12",
        algorithm=PPO,
        policy="MlpPolicy",
        steps=2048,
        keywords=SHORT,
        normalised=True,
        longest=100,
    ),
    "car-racing": Foreign(
        name="CarRacing-v3",
        sees="RGB image, 96 × 96 × 3, uint8",
        algorithm=A2C,
        policy="CnnPolicy",
        steps=3000,
        flags=("--layout", "steer,throttle,brake"),
    ),
}
