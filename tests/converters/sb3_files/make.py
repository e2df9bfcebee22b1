"""Save small policies with the Stable-Baselines3 of this environment, into this folder.

    python make.py TAG CASE…

Each case becomes CASE-TAG.zip, CASE-TAG.npz (observations, and the actions that `predict` gives for
them there), and CASE-TAG.pkl where the case has VecNormalize. The files here were made by

    # tag np2: Python 3.11
    pip install torch==2.13.0 stable-baselines3==2.9.2 numpy==2.4.6
    # tag py313: Python 3.13
    pip install torch==2.6.0 stable-baselines3==2.6.0 numpy==2.1.3
    # tag np1: Python 3.11
    pip install torch==2.13.0 stable-baselines3==2.9.2 numpy==1.26.4
    # tag sb16 (and sb18, with stable-baselines3==1.8.0): Python 3.8
    pip install setuptools==65.5.0 "wheel<0.39" "pip<24" "importlib-metadata<5" matplotlib pandas
    pip install torch==1.11.0 numpy==1.23.5 cloudpickle
    pip install --no-build-isolation --no-deps gym==0.21.0
    pip install --no-deps stable-baselines3==1.6.2

    python make.py np2 ppo-box ppo-dict ppo-binary ppo-sde a2c-multidiscrete sac-box sac-sde td3-box
    python make.py np2 ddpg-dict dqn-discrete dqn-multibinary ppo-rewards ppo-own-extractor
    python make.py np2 ppo-camera dqn-frames sac-view ppo-view
    python make.py np1 ppo-dict a2c-multidiscrete sac-box ppo-camera
    pip install sb3-contrib==2.9.2  # beside the versions of np1
    python make.py np1 trpo-box qrdqn-discrete tqc-dict tqc-sde crossq-box ars-mlp ars-linear
    python make.py np1 ars-discrete maskableppo-discrete maskableppo-multidiscrete
    python make.py np1 maskableppo-binary maskableppo-camera
    python make.py py313 ppo-box ppo-dict sac-box
    python make.py sb16 ppo-shared ppo-dict a2c-multidiscrete sac-box td3-box ddpg-dict dqn-discrete
    python make.py sb16 ppo-camera sac-view
    python make.py sb18 ppo-box sac-sde
"""

from __future__ import annotations

import base64
import copy
import json
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

try:
    import gymnasium as gym
except ImportError:
    import gym  # type: ignore[import-not-found, no-redef]

try:
    from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO
except ImportError:  # the old versions
    ARS = QRDQN = TQC = TRPO = CrossQ = MaskablePPO = None  # type: ignore[assignment, misc]
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

spaces: Any = gym.spaces
VECTOR = spaces.Box(
    np.array([0, -1, 0, 0, 0, 0, 0], np.float32), np.array([200, 1] + [1000] * 5, np.float32)
)
PEDALS = spaces.Box(np.array([0, 0, -1], np.float32), np.array([1, 0.8, 1], np.float32))
TWO = spaces.Box(np.array([-1, -2], np.float32), np.array([1, 3], np.float32))
MANY = spaces.Dict(
    OrderedDict(
        zebra=spaces.Box(-5, 5, (2, 3), np.float32),
        gear=spaces.Discrete(4),
        lamps=spaces.MultiBinary(3),
        modes=spaces.MultiDiscrete([3, 2]),
        area=spaces.Box(-np.inf, np.inf, (2,), np.float32),
    )
)
CAMERA = spaces.Box(0, 255, (36, 36, 3), np.uint8)
FRAMES = spaces.Box(0, 255, (42, 36, 4), np.uint8)
VIEW = spaces.Dict(
    OrderedDict(
        speed=spaces.Box(0, 50, (1,), np.float32),
        camera=spaces.Box(0, 255, (36, 40, 3), np.uint8),
        gear=spaces.Discrete(3),
    )
)
MULTI = spaces.MultiDiscrete([2, 4])
SMALL: Any = {"net_arch": [6]}
CRITIC: Any = {"net_arch": [6], "n_critics": 1, "n_quantiles": 3}
NATURE: Any = {**SMALL, "features_extractor_kwargs": {"features_dim": 8}}
COMBINED: Any = {**SMALL, "features_extractor_kwargs": {"cnn_output_dim": 8}}


class Extractor(BaseFeaturesExtractor):
    """An own features extractor: code, which is not in the zip as data."""

    def __init__(self, space: Any) -> None:
        super().__init__(space, 3)
        self.layer = torch.nn.Linear(int(np.prod(space.shape)), 3)

    def forward(self, observations: Any) -> Any:
        return torch.relu(self.layer(observations))


def schedule(progress: float) -> float:
    """A learning rate that is a function, as many zips hold one."""
    return 1e-3 * progress


ELU = {"net_arch": {"pi": [6, 5], "vf": [4]}, "activation_fn": torch.nn.ELU}
OLD = gym.__name__ == "gym"
if OLD:
    ELU["net_arch"] = [ELU["net_arch"]]  # as it was written before 1.8
STEPS = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "learning_rate": schedule}
OFF = {"learning_starts": 8, "batch_size": 8, "buffer_size": 64}
DELTAS = {"n_delta": 2, "n_eval_episodes": 1, "delta_std": 0.3, "learning_rate": 0.3}
CASES: Any = {
    # case: algorithm, observation space, action space, keywords, VecNormalize's keywords
    "ppo-box": (PPO, VECTOR, PEDALS, {"policy_kwargs": ELU, **STEPS}, {"clip_obs": 4.0}),
    "ppo-shared": (
        PPO,
        VECTOR,
        PEDALS,
        {"policy_kwargs": {"net_arch": [6, {"pi": [5], "vf": [4]}]}, **STEPS},
        None,
    ),
    "ppo-dict": (
        PPO,
        MANY,
        TWO,
        {"policy_kwargs": ELU if OLD else SMALL, **STEPS},
        {"norm_obs_keys": ["zebra", "area"]},
    ),
    "ppo-binary": (
        PPO,
        MULTI,
        spaces.MultiBinary(3),
        {"policy_kwargs": {"activation_fn": torch.nn.LeakyReLU, **SMALL}, **STEPS},
        None,
    ),
    "ppo-sde": (
        PPO,
        VECTOR,
        PEDALS,
        {"use_sde": True, "policy_kwargs": {"squash_output": True, **SMALL}, **STEPS},
        None,
    ),
    "ppo-rewards": (PPO, VECTOR, PEDALS, {"policy_kwargs": SMALL, **STEPS}, {"norm_obs": False}),
    "ppo-own-extractor": (
        PPO,
        VECTOR,
        PEDALS,
        {"policy_kwargs": {"features_extractor_class": Extractor, **SMALL}, **STEPS},
        None,
    ),
    "a2c-multidiscrete": (
        A2C,
        VECTOR,
        spaces.MultiDiscrete([3, 2]),
        {"policy_kwargs": {"net_arch": []}},
        None,
    ),
    "sac-box": (SAC, VECTOR, PEDALS, {"policy_kwargs": SMALL, **OFF}, {}),
    "sac-sde": (SAC, VECTOR, TWO, {"policy_kwargs": SMALL, "use_sde": True, **OFF}, None),
    "td3-box": (
        TD3,
        VECTOR,
        TWO,
        {"policy_kwargs": {"net_arch": {"pi": [7, 3], "qf": [4]}}, **OFF},
        None,
    ),
    "ddpg-dict": (DDPG, MANY, TWO, {"policy_kwargs": SMALL, **OFF}, {"norm_obs": False}),
    "dqn-discrete": (
        DQN,
        spaces.Discrete(5),
        spaces.Discrete(3),
        {"policy_kwargs": {"net_arch": [6, 4]}, **OFF},
        None,
    ),
    "dqn-multibinary": (
        DQN,
        spaces.MultiBinary(6),
        spaces.Discrete(4),
        {"policy_kwargs": {"activation_fn": torch.nn.Mish, **SMALL}, **OFF},
        None,
    ),
    "ppo-camera": (PPO, CAMERA, PEDALS, {"policy_kwargs": NATURE, **STEPS}, None),
    "dqn-frames": (DQN, FRAMES, spaces.Discrete(3), {"policy_kwargs": NATURE, **OFF}, None),
    "sac-view": (SAC, VIEW, PEDALS, {"policy_kwargs": COMBINED, **OFF}, None),
    "ppo-view": (
        PPO,
        VIEW,
        TWO,
        {"policy_kwargs": COMBINED, **STEPS},
        {"norm_obs_keys": ["speed"]},
    ),
    "trpo-box": (
        TRPO,
        VECTOR,
        PEDALS,
        {"policy_kwargs": SMALL, "n_steps": 16, "batch_size": 16},
        {},
    ),
    "qrdqn-discrete": (
        QRDQN,
        VECTOR,
        spaces.Discrete(4),
        {"policy_kwargs": {"net_arch": [6], "n_quantiles": 5}, **OFF},
        {},
    ),
    "tqc-dict": (TQC, MANY, TWO, {"policy_kwargs": CRITIC, **OFF}, {"norm_obs": False}),
    "tqc-sde": (
        TQC,
        VECTOR,
        PEDALS,
        {
            "policy_kwargs": {"use_expln": True, "log_std_init": -1, **CRITIC},
            "use_sde": True,
            **OFF,
        },
        None,
    ),
    "crossq-box": (
        CrossQ,
        VECTOR,
        PEDALS,
        {"policy_kwargs": {"net_arch": {"pi": [6, 5], "qf": [4]}, "n_critics": 1}, **OFF},
        {},
    ),
    "ars-mlp": (ARS, VECTOR, PEDALS, {"policy_kwargs": {"net_arch": [6]}, **DELTAS}, {}),
    "ars-linear": (ARS, VECTOR, TWO, {"policy": "LinearPolicy", **DELTAS}, {}),
    "ars-discrete": (
        ARS,
        MULTI,
        spaces.Discrete(3),
        {"policy_kwargs": {"net_arch": [5], "activation_fn": torch.nn.Tanh}, **DELTAS},
        None,
    ),
    "maskableppo-discrete": (
        MaskablePPO,
        VECTOR,
        spaces.Discrete(5),
        {"policy_kwargs": SMALL, **STEPS},
        {},
    ),
    "maskableppo-multidiscrete": (
        MaskablePPO,
        MANY,
        spaces.MultiDiscrete([3, 2]),
        {"policy_kwargs": SMALL, **STEPS},
        {"norm_obs_keys": ["zebra", "area"]},
    ),
    "maskableppo-binary": (
        MaskablePPO,
        MULTI,
        spaces.MultiBinary(3),
        {"policy_kwargs": SMALL, **STEPS},
        None,
    ),
    "maskableppo-camera": (
        MaskablePPO,
        CAMERA,
        spaces.Discrete(4),
        {"policy_kwargs": NATURE, **STEPS},
        None,
    ),
}


def drawn(space: Any, generator: Any) -> Any:
    """Draw an observation, the same in every environment."""
    if isinstance(space, spaces.Dict):
        return OrderedDict((key, drawn(part, generator)) for key, part in space.spaces.items())
    if isinstance(space, spaces.Discrete):
        return int(generator.integers(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return generator.integers(space.nvec)
    if isinstance(space, spaces.MultiBinary):
        return generator.integers(0, 2, space.shape).astype(np.int8)
    if space.dtype == np.uint8:  # in blocks, whose files are small
        height, width, channels = space.shape
        blocks = generator.integers(0, 256, (height // 6, width // 4, channels))
        return blocks.repeat(6, 0).repeat(4, 1).astype(np.uint8)
    low, high = np.clip(space.low, -50, 50), np.clip(space.high, -50, 50)
    return generator.uniform(low, high).astype(np.float32)


class Random(gym.Env):  # type: ignore[misc, type-arg]
    """An environment of random observations and rewards."""

    def __init__(self, observation: Any, action: Any) -> None:
        self.observation_space, self.action_space = observation, action
        self.generator = np.random.default_rng(7)

    def reset(self, **_: Any) -> Any:
        self.steps = 0
        seen = drawn(self.observation_space, self.generator)
        return seen if OLD else (seen, {})

    def step(self, action: Any) -> Any:
        self.steps += 1
        seen = drawn(self.observation_space, self.generator)
        reward, done = float(self.generator.normal()), self.steps >= 10
        return (seen, reward, done, *(() if OLD else (False,)), {})

    def action_masks(self) -> Any:
        """Return what is allowed next, for MaskablePPO."""
        return drawn_masks(self.action_space, 1, self.generator)[0]


def drawn_masks(space: Any, rows: int, generator: Any) -> Any:
    """Draw action masks that allow one choice of each branch, at least."""
    widths = [space.n] if isinstance(space, spaces.Discrete) else getattr(space, "nvec", None)
    masks = []
    for width in [2] * space.n if widths is None else widths:
        mask = generator.integers(0, 2, (rows, width))
        mask[np.arange(rows), generator.integers(0, width, rows)] = 1
        masks.append(mask)
    return np.concatenate(masks, axis=1).astype(np.int8)


def stacked(space: Any, rows: Any) -> Any:
    """Return a batch of observations as SB3 wants it."""
    if isinstance(space, spaces.Dict):
        return {key: np.array([row[key] for row in rows]) for key in space.spaces}
    return np.array(rows)


def make(case: str, tag: str) -> None:
    """Train for a moment and save."""
    kind, observation, action, keywords, normalise = CASES[case]
    env: Any = DummyVecEnv([lambda: Random(observation, action)])
    if normalise is not None:
        env = VecNormalize(env, **normalise)
    policy = "CnnPolicy" if observation.dtype == np.uint8 else "MlpPolicy"
    policy = "MultiInputPolicy" if isinstance(observation, spaces.Dict) else policy
    given = {"policy": policy, **copy.deepcopy(keywords)}
    model = kind(env=env, seed=3, device="cpu", **given)
    model.learn(37)
    images = any(weights.dim() == 4 for weights in model.policy.parameters())
    for name, weights in model.policy.named_parameters():
        if weights.dim() == 4:  # of a convolution: mostly zeros, whose files are small
            weights.data *= 10.0 * (torch.rand(weights.shape) < 0.02)
        elif images and weights.dim() == 2:  # so that images count
            weights.data *= 100.0 if name.startswith("action_net") else 2.0
    target = Path(__file__).parent / f"{case}-{tag}"
    model.save(f"{target}.zip")
    without_places(Path(f"{target}.zip"))
    if normalise is not None:
        env.save(f"{target}.pkl")
    generator, rows = np.random.default_rng(11), 20 if images else 40
    batch = stacked(observation, [drawn(observation, generator) for _ in range(rows)])
    masks = {}
    if kind is MaskablePPO:
        masks = {"action_masks": drawn_masks(action, rows, generator)}
    actions, _ = model.predict(batch, deterministic=True, **masks)
    parts = batch if isinstance(batch, dict) else {"observation": batch}
    np.savez_compressed(f"{target}.npz", actions=actions, **parts, **masks)


def without_places(path: Path) -> None:
    """Blank the paths that pickled code names, and the kernel: they tell of the machine alone."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(members["data"])
    for entry in data.values():
        if isinstance(entry, dict) and ":serialized:" in entry:
            content = base64.b64decode(entry[":serialized:"])
            for place in (sys.prefix, str(Path(__file__).resolve().parent)):
                content = content.replace(place.encode(), b"-" * len(place))
            entry[":serialized:"] = base64.b64encode(content).decode()
    members["data"] = json.dumps(data, indent=4).encode()
    lines = members["system_info.txt"].decode().splitlines()
    kept = [line for line in lines if "OS:" not in line]
    members = {name: held for name, held in members.items() if "optimizer" not in name}
    members["system_info.txt"] = "\n".join(kept).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


if __name__ == "__main__":
    for name in sys.argv[2:]:
        make(name, sys.argv[1])
