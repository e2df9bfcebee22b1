"""Policies behind VecFrameStack drive, once imported, with one frame a step as they do with all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from carlarl.cli import cli
from converters.artifact import artifact
from converters.artifact.card import ArtifactError
from converters.importers import sb3_frames
from converters.importers.sb3 import import_sb3
from tests.converters import driving
from tests.converters.random_env import Random

FRAMES = 3
VECTOR = spaces.Box(np.array([-2, 0, 1], np.float32), np.array([2, 5, 9], np.float32))
WHOLE = spaces.Box(-9, 9, (4,), np.int64)
MATRIX = spaces.Box(-1, 1, (4, 2))
LAST = spaces.Box(0, 255, (36, 40, 3), np.uint8)
FIRST = spaces.Box(0, 255, (1, 40, 36), np.uint8)
FLOATS = spaces.Box(0, 1, (3, 9, 12), np.float32)
PARTS = spaces.Dict(
    {"speed": VECTOR, "front": LAST, "rear view": spaces.Box(0, 255, (36, 36, 1), np.uint8)}
)
VECTORS = spaces.Dict({"speed": VECTOR, "rays": spaces.Box(0, 9, (5,)), "gear": MATRIX})
WHEEL = spaces.Box(np.array([-1, -2], np.float32), np.array([1, 3], np.float32))
FIVE = spaces.Discrete(5)


def stack(env: Any, **told: Any) -> Any:
    return VecFrameStack(env, FRAMES, **told)


def inside(env: Any) -> Any:
    return stack(VecNormalize(env))


def outside(env: Any) -> Any:
    return VecNormalize(stack(env))


CASES: dict[str, tuple[Any, str, Any, Any, Any]] = {
    "vector, DQN": (DQN, "MlpPolicy", VECTOR, FIVE, stack),
    "vector, PPO": (PPO, "MlpPolicy", VECTOR, WHEEL, stack),
    "vector, SAC": (SAC, "MlpPolicy", VECTOR, WHEEL, stack),
    "integers": (A2C, "MlpPolicy", WHOLE, WHEEL, stack),
    "matrix": (A2C, "MlpPolicy", MATRIX, WHEEL, stack),
    "matrix, first": (
        A2C, "MlpPolicy", MATRIX, WHEEL, lambda env: stack(env, channels_order="first")
    ),
    "channels last, DQN": (DQN, "CnnPolicy", LAST, FIVE, stack),
    "channels last, PPO": (PPO, "CnnPolicy", LAST, WHEEL, stack),
    "channels first": (DQN, "CnnPolicy", FIRST, FIVE, stack),
    "floats, first": (
        A2C, "MlpPolicy", FLOATS, WHEEL, lambda env: stack(env, channels_order="first")
    ),
    "Dict": (PPO, "MultiInputPolicy", PARTS, WHEEL, stack),
    "Dict of vectors": (SAC, "MultiInputPolicy", VECTORS, WHEEL, stack),
    "inside": (PPO, "MlpPolicy", VECTOR, WHEEL, inside),
    "outside": (PPO, "MlpPolicy", VECTOR, WHEEL, outside),
    "outside, DQN": (DQN, "MlpPolicy", VECTOR, FIVE, outside),
    "Dict, inside": (PPO, "MultiInputPolicy", VECTORS, WHEEL, inside),
    "Dict, outside": (
        PPO, "MultiInputPolicy", VECTORS, WHEEL,
        lambda env: VecNormalize(stack(env), norm_obs_keys=["rays", "gear"], clip_obs=0.7),
    ),
    "image and a normalised part": (
        PPO, "MultiInputPolicy", PARTS, FIVE,
        lambda env: VecNormalize(stack(env), norm_obs_keys=["speed"]),
    ),
    "masked": (MaskablePPO, "MlpPolicy", VECTOR, FIVE, outside),
    "masked image": (MaskablePPO, "CnnPolicy", LAST, FIVE, stack),
    "recurrent": (RecurrentPPO, "MlpLstmPolicy", VECTOR, WHEEL, outside),
    "recurrent Dict": (RecurrentPPO, "MultiInputLstmPolicy", PARTS, FIVE, stack),
}  # fmt: skip


class Watched(Random):
    """It keeps the frame that it gave last, and whether an episode began with it.

    Its images are dark or bright, since all noise is alike to a network.
    """

    def reset(self, **told: Any) -> Any:
        frame, told = super().reset(**told)
        self.frame, self.start = self._lit(frame), True
        return self.frame, told

    def _lit(self, frame: Any) -> Any:
        if isinstance(frame, dict):
            return {name: self._lit(one) for name, one in frame.items()}
        light = self.np_random.uniform() if frame.dtype == np.uint8 else 1
        return (frame * light).astype(frame.dtype)

    def step(self, action: Any) -> Any:
        frame, *rest = super().step(action)
        self.frame, self.start = self._lit(frame), False
        return self.frame, *rest

    def action_masks(self) -> Any:
        return np.array([True, False, True, True, False])


def saved(folder: Path, case: str) -> tuple[Any, Any]:
    """Save a policy and its statistics; return the model and its world."""
    kind, policy, seen, action, wrap = CASES[case]
    torch.manual_seed(4)
    world = Watched(seen, action)
    for number, space in enumerate((seen, action)):
        space.seed(number)
    world.np_random = np.random.default_rng(2)
    env = wrap(DummyVecEnv([lambda: world]))
    layers: dict[str, Any] = {"net_arch": [8]}
    if policy.startswith(("Cnn", "Multi")):
        size = "cnn_output_dim" if policy.startswith("Multi") else "features_dim"
        layers["features_extractor_kwargs"] = {size: 8}
    if kind is RecurrentPPO:
        layers["lstm_hidden_size"] = 8
    if kind in (DQN, SAC):
        options: dict[str, Any] = {"learning_starts": 100, "buffer_size": 64}
    else:
        options = {"n_steps": 8} | ({} if kind is A2C else {"batch_size": 8, "n_epochs": 1})
    model = kind(policy, env, seed=1, device="cpu", policy_kwargs=layers, **options)
    model.learn(24)
    with torch.no_grad():
        for weights in model.policy.parameters():
            weights += 0.2 * torch.randn(weights.shape) * (weights.dim() == 2)
    if (normalize := model.get_vec_normalize_env()) is not None:
        normalize.save(str(folder / "statistics.pkl"))
        normalize.training = False
    if action is FIVE:
        level(model, world)
    model.save(folder / "policy.zip")
    return model, world


def level(model: Any, world: Any) -> None:
    """Make all choices equally good on the average, so that an observation decides."""
    head = model.policy.q_net.q_net[-1] if isinstance(model, DQN) else model.policy.action_net
    found: list[torch.Tensor] = []
    with torch.no_grad():
        hook = head.register_forward_hook(lambda _, __, made: found.append(made))
        driven(model, world, 40)
        hook.remove()
        head.bias -= torch.cat(found).mean(dim=0)


def imported(folder: Path, case: str, version: str = "v1.0.0", **given: Any) -> Path:
    statistics = folder / "statistics.pkl"
    given = {"frame_stack": FRAMES} | given
    given["vecnormalize"] = statistics if statistics.exists() else "none"
    if isinstance(seen := CASES[case][2], spaces.Box) and len(seen.shape) == 1:
        given.setdefault("fields", ["vector"])
    if case == "channels first":  # which the zip does not tell
        given.setdefault("image_layout", "chw")
    if case.endswith(", first"):
        given.setdefault("channels_order", "first")
    return import_sb3(folder / "policy.zip", version, folder / "artifacts", **given)


def driven(model: Any, world: Any, steps: int = driving.STEPS) -> tuple[Any, Any, Any]:
    """Let the library drive; return frames by their names, starts, and its own actions."""
    env = model.get_env()
    seen, state, frames, starts, actions = env.reset(), None, [], [], []
    masked = isinstance(model, MaskablePPO)
    for _ in range(steps):
        frames.append(world.frame)
        starts.append(world.start)
        told = {"action_masks": world.action_masks()} if masked else {}
        start = np.array([world.start])
        action, state = model.predict(seen, state, start, deterministic=True, **told)
        actions.append(np.ravel(action))
        seen, *_ = env.step(action)
    parts = frames if isinstance(frames[0], dict) else [{"": one} for one in frames]
    rows = {name: np.stack([one[name] for one in parts]) for name in model_parts(world)}
    if masked:
        rows["action_mask"] = np.repeat(world.action_masks()[None], steps, axis=0).astype(np.int8)
    return tuple(rows.values()), np.array(starts), np.array(actions)


def model_parts(world: Any) -> list[str]:
    space = world.observation_space
    return list(space.spaces) if isinstance(space, spaces.Dict) else [""]


@pytest.mark.parametrize("case", CASES)
def test_drives_as_predict(case: str, tmp_path: Path) -> None:
    model, world = saved(tmp_path, case)
    source = artifact.load(imported(tmp_path, case))
    rows, start, expected = driven(model, world)
    assert start.sum() == 30
    assert np.std(expected) > 0.02
    for name, step in driving.opened(source, tmp_path).items():
        found = driving.drive(step, source, rows, start)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=name)
        forgetful = driving.drive(step, source, rows, np.ones_like(start))
        assert np.abs(forgetful - expected).max() > 1e-3


def test_the_state_is_small(tmp_path: Path) -> None:
    """Images in their own type, and all numbers together."""
    saved(tmp_path, "Dict")
    state = artifact.load(imported(tmp_path, "Dict")).card.signature.state
    assert [(one.name, one.dtype, one.shape) for one in state] == [
        ("frames", "float32", (2, 3)),
        ("frames-front", "uint8", (2, 36, 40, 3)),
        ("frames-rear_view", "uint8", (2, 36, 36, 1)),
    ]


def test_callers_send_one_frame(tmp_path: Path) -> None:
    """With its own bounds and names, and channels as it has them."""
    saved(tmp_path, "inside")
    fields = ["x", "y", "z"]
    space = artifact.load(imported(tmp_path, "inside", fields=fields)).card.observation_space
    assert space is not None
    parts = space["subspaces"]
    assert [(parts[name]["low"], parts[name]["high"]) for name in "xyz"] == [
        (-2.0, 2.0), (0.0, 5.0), (1.0, 9.0),
    ]  # fmt: skip
    saved(tmp_path, "channels last, PPO")
    (tmp_path / "statistics.pkl").unlink()
    told: list[str] = []
    folder = imported(tmp_path, "channels last, PPO", "v1.0.1", tell=told.append)
    card = artifact.load(folder).card
    assert card.observation_space is not None
    assert card.observation_space["shape"] == [36, 40, 3]
    assert (
        "the observation has 3 channels, and the file does not tell which: colours (R" in told[-1]
    )
    assert "frames" not in told[-1]


def test_samples_as_predict(tmp_path: Path) -> None:
    """Mean and spread of many samples in the middle of a drive are the library's."""
    model, world = saved(tmp_path, "outside")
    source = artifact.load(imported(tmp_path, "outside"))
    rows, start, _ = driven(model, world, 8)
    stack = np.concatenate([rows[0][one] for one in (5, 6, 7)])
    seen = model.get_vec_normalize_env().normalize_obs(stack[None])
    torch.manual_seed(0)
    theirs, _ = model.predict(np.repeat(seen, driving.DRAWS, axis=0))
    step = driving.opened(source, tmp_path)["onnx"]
    ours = driving.samples(step, source, rows, start)
    for power in (1, 2):
        first, second = ours**power, theirs**power
        spread = np.sqrt((first.var(axis=0) + second.var(axis=0)) / driving.DRAWS)
        assert (np.abs(first.mean(axis=0) - second.mean(axis=0)) <= 5 * spread).all()


def test_served_by_triton(tmp_path: Path) -> None:
    """Vectors, images, a Dict and statistics, by the ensemble and the fused model."""
    found = {}
    names = ("outside", "channels last, DQN", "channels first", "image and a normalised part")
    for patch, case in enumerate(names):
        place = tmp_path / str(patch)
        place.mkdir()
        model, world = saved(place, case)
        found[imported(place, case, f"v1.0.{patch}")] = driven(model, world, 60)
    with driving.triton(list(found), tmp_path / "repository") as client:
        for folder, (rows, start, expected) in found.items():
            for name, actions in driving.in_triton(client, folder, rows, start).items():
                np.testing.assert_allclose(actions, expected, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("case", "given", "message"),
    [
        ("vector, PPO", {"frame_stack": 2}, r"--frame-stack 2: the observation has 9 numbers, whi"),
        ("vector, PPO", {"frame_stack": 9}, r"--frame-stack 9: the observation has 9 numbers, whi"),
        ("vector, PPO", {"frame_stack": None, "channels_order": "last"}, "it is for --frame-stack"),
        ("matrix, first", {"channels_order": None}, "has 12 × 2 numbers, which are not so many fr"),
        ("inside", {"frame_stack": None}, "behind VecFrameStack: say --frame-stack 3, if that is "),
    ],
)
def test_wrong(case: str, given: Any, message: str, tmp_path: Path) -> None:
    saved(tmp_path, case)
    with pytest.raises(ArtifactError, match=message) as told:
        imported(tmp_path, case, **given)
    assert "\n" not in str(told.value)


def test_statistics_of_something_else(tmp_path: Path) -> None:
    saved(tmp_path, "inside")
    other = VecNormalize(DummyVecEnv([lambda: Random(WHOLE, WHEEL)]))
    other.save(str(tmp_path / "statistics.pkl"))
    with pytest.raises(ArtifactError, match=r"neither one frame \(subtract takes 3 .* 3 stacked o"):
        imported(tmp_path, "inside")


def test_what_is_never_stacked() -> None:
    with pytest.raises(ValueError, match="stacks a Box alone, and the observation is a Discrete"):
        sb3_frames.find(FIVE, 2, None)


def test_the_command(tmp_path: Path) -> None:
    """It tells the state."""
    saved(tmp_path, "vector, PPO")
    arguments = ["--version", "v1.0.0", "--artifacts", str(tmp_path / "a"), "--fields", "vector"]
    policy = str(tmp_path / "policy.zip")
    result = CliRunner(env={"COLUMNS": "120"}).invoke(
        cli, ["import-sb3", policy, "--frame-stack", "3", "--vecnormalize", "none", *arguments]
    )
    assert result.exit_code == 0, result.output
    assert re.search("state.*frames.*2 × 3 float32.*0 at an episode's start", result.output)
