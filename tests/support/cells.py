"""The cells of docs/SUPPORT.md: each is a policy of some algorithm, observation and action."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sb3_contrib
import stable_baselines3
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecFrameStack,
    VecNormalize,
    VecTransposeImage,
)

from tests.converters.random_env import Random

SEEN = {
    "vector": spaces.Box(-2, 2, (6,)),
    "matrix": spaces.Box(-2, 2, (3, 4)),
    "Dict": spaces.Dict({"speed": spaces.Box(0, 30, (1,)), "lane": spaces.Discrete(3)}),
    "image": spaces.Box(0, 255, (36, 36, 3), np.uint8),
    "image, channels first": spaces.Box(0, 255, (1, 36, 36), np.uint8),
    "Dict with image": spaces.Dict(
        {"front": spaces.Box(0, 255, (36, 36, 3), np.uint8), "speed": spaces.Box(0, 30, (1,))}
    ),
    "Discrete": spaces.Discrete(5),
    "MultiDiscrete": spaces.MultiDiscrete([3, 4]),
    "MultiBinary": spaces.MultiBinary(4),
}
"""The observations: the columns of the first table."""

ACTIONS = {
    "Box": spaces.Box(np.array([-1, 0], np.float32), np.array([1, 2], np.float32)),
    "Discrete": spaces.Discrete(4),
    "MultiDiscrete": spaces.MultiDiscrete([3, 3]),
    "MultiBinary": spaces.MultiBinary(3),
}
BRANCHES = {"Discrete": (1, 4), "MultiDiscrete": (2, 3), "MultiBinary": (3, 2)}
"""How many choices an action makes, and of how many values each."""

_ON_POLICY = {"n_steps": 32, "learning_rate": 0.01}
_PPO = _ON_POLICY | {"batch_size": 16, "n_epochs": 2}
_OFF_POLICY = {"learning_starts": 24, "buffer_size": 100, "batch_size": 16, "learning_rate": 0.01}
_BOX, _DISCRETE = ("Box",), ("Discrete",)


@dataclass(frozen=True)
class Algorithm:
    """What trains a policy, and for which actions."""

    kind: type[BaseAlgorithm]
    actions: tuple[str, ...]
    keywords: dict[str, Any]
    steps: int = 32


ALGORITHMS = {
    "PPO": Algorithm(stable_baselines3.PPO, tuple(ACTIONS), _PPO),
    "A2C": Algorithm(stable_baselines3.A2C, tuple(ACTIONS), _ON_POLICY),
    "TRPO": Algorithm(sb3_contrib.TRPO, tuple(ACTIONS), _ON_POLICY | {"batch_size": 16}),
    "MaskablePPO": Algorithm(sb3_contrib.MaskablePPO, tuple(ACTIONS)[1:], _PPO),
    "RecurrentPPO": Algorithm(sb3_contrib.RecurrentPPO, tuple(ACTIONS)[:3], _PPO),
    "SAC": Algorithm(stable_baselines3.SAC, _BOX, _OFF_POLICY),
    "TD3": Algorithm(stable_baselines3.TD3, _BOX, _OFF_POLICY),
    "DDPG": Algorithm(stable_baselines3.DDPG, _BOX, _OFF_POLICY),
    "TQC": Algorithm(sb3_contrib.TQC, _BOX, _OFF_POLICY),
    "CrossQ": Algorithm(sb3_contrib.CrossQ, _BOX, _OFF_POLICY),
    "DQN": Algorithm(stable_baselines3.DQN, _DISCRETE, _OFF_POLICY),
    "QRDQN": Algorithm(sb3_contrib.QRDQN, _DISCRETE, _OFF_POLICY),
    "ARS": Algorithm(sb3_contrib.ARS, _BOX + _DISCRETE, {"n_delta": 2}, steps=40),
}

STACKED, FRAMES = "VecFrameStack", 3

WRAPPERS: dict[str, Callable[[VecEnv], VecEnv]] = {
    "none": lambda env: env,
    "VecNormalize": VecNormalize,
    "VecNormalize, rewards alone": lambda env: VecNormalize(env, norm_obs=False),
    "VecNormalize of some keys": lambda env: VecNormalize(env, norm_obs_keys=["speed"]),
    "VecTransposeImage": VecTransposeImage,
    STACKED: lambda env: VecFrameStack(env, FRAMES),
}
WRAPPED = {
    "VecNormalize": "vector",
    "VecNormalize, rewards alone": "vector",
    "VecNormalize of some keys": "Dict",
    "VecTransposeImage": "image",
    STACKED: "image",
}
"""The columns of the second table, and what is observed there."""


@dataclass(frozen=True)
class Cell:
    """A policy: what trains it, what it sees, what it does, and the wrapper around its world."""

    algorithm: str
    seen: str
    action: str
    wrapper: str = "none"

    def train(self, folder: Path) -> BaseAlgorithm | None:
        """Train and save a policy; return None where the library takes no such spaces."""
        told = ALGORITHMS[self.algorithm]
        space = SEEN[self.seen]
        env: Any = DummyVecEnv([lambda: self._masked(Random(space, ACTIONS[self.action]))])
        images = "image" in self.seen
        policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
        if images and policy == "MlpPolicy":
            policy = "CnnPolicy"
        if self.algorithm == "RecurrentPPO":
            policy = policy.replace("Policy", "LstmPolicy")
        try:
            env = WRAPPERS[self.wrapper](env)
            model: Any = told.kind(policy, env, seed=0, device="cpu", **told.keywords)
        except (AssertionError, ValueError, KeyError, TypeError):
            return None
        model.learn(told.steps)
        model.save(folder / "policy.zip")
        if isinstance(env, VecNormalize):
            env.save(str(folder / "vecnormalize.pkl"))
        return model  # type: ignore[no-any-return]

    def _masked(self, env: Any) -> Any:
        if self.algorithm == "MaskablePPO":
            env.action_masks = lambda: np.ones(np.prod(BRANCHES[self.action]), bool)
        return env
