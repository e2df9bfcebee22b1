"""A policy that sees acts, once imported, as Stable-Baselines3 has it act."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, TRPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecFrameStack,
    VecNormalize,
    VecTransposeImage,
)

from converters.artifact import artifact
from converters.artifact.artifact import Artifact
from converters.artifact.card import ArtifactError
from converters.export import parity
from converters.export.export import export
from converters.importers.interface import described
from converters.importers.sb3 import import_sb3
from tests.converters.random_env import Random
from tests.converters.test_sb3_zip import FOLDER, observations
from tests.stack import running_stack

KINDS = {kind.__name__: kind for kind in (PPO, A2C, TRPO, SAC, TQC, TD3, DDPG, DQN, QRDQN)}
CAMERA = spaces.Box(0, 255, (36, 40, 3), np.uint8)
VIEW = spaces.Dict(
    {
        "speed": spaces.Box(0, 50, (2,)),
        "gear": spaces.Discrete(3),
        "camera": CAMERA,
        "map": spaces.Box(0, 255, (40, 36, 1), np.uint8),
    }
)
WHEEL = spaces.Box(np.array([-1, -2], np.float32), np.array([1, 3], np.float32))


def train(
    folder: Path,
    kind: Any,
    observation: Any,
    *,
    policy: str | None = None,
    env: Any = None,
    action: Any = None,
    arguments: dict[str, Any] | None = None,
) -> Any:
    """Save a policy to `policy.zip`, with weights that make images count, and return the model."""
    torch.manual_seed(3)
    if kind in (PPO, A2C, TRPO):
        options: dict[str, Any] = {"n_steps": 6}
        options |= {} if kind is A2C else {"batch_size": 6}
        options |= {"n_epochs": 1} if kind is PPO else {}
    else:
        options = {"buffer_size": 32, "learning_starts": 100}
    dictionary = isinstance(observation, spaces.Dict)
    action = action or (spaces.Discrete(5) if kind in (DQN, QRDQN) else WHEEL)
    name = policy or ("MultiInputPolicy" if dictionary else "CnnPolicy")
    size = {"cnn_output_dim" if dictionary else "features_dim": 8}
    layers: dict[str, Any] = {"net_arch": [8]} | (arguments or {})
    layers |= {} if name == "MlpPolicy" else {"features_extractor_kwargs": size}
    env = env or Random(observation, action)
    model = kind(name, env, device="cpu", seed=1, policy_kwargs=layers, **options)
    model.learn(12)
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
        light = np.random.default_rng(1).uniform(0, 1, (count, *batch[0].ndim * [1]))
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
    if name not in ("DQN", "QRDQN"):
        assert found.std(0).max() > 0.05
        return
    with torch.inference_mode():  # its choice may be the same for all
        tensors, _ = model.policy.obs_to_tensor(batch)
        expected = model.q_net(tensors) if name == "DQN" else model.quantile_net(tensors).mean(1)
        scores = source.policy.scores(*map(torch.from_numpy, given(source, batch)))
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)


FRAMES = spaces.Box(0, 255, (40, 36, 4), np.uint8)
SEPARATE = {"share_features_extractor": False}
AS_IT_IS = {"normalize_images": False}
SHARED = {"share_features_extractor": True}


@pytest.mark.parametrize(
    ("kind", "space", "policy", "arguments"),
    [
        (PPO, CAMERA, "CnnPolicy", SEPARATE),
        (A2C, VIEW, "MultiInputPolicy", SEPARATE),
        (SAC, CAMERA, "CnnPolicy", SHARED),
        (TD3, VIEW, "MultiInputPolicy", SHARED),
        (PPO, FRAMES, "CnnPolicy", AS_IT_IS),
        (DDPG, VIEW, "MultiInputPolicy", AS_IT_IS),
        (A2C, spaces.Box(0, 255, (42, 36, 1), np.uint8), "CnnPolicy", {}),
        (A2C, spaces.Box(0, 1, (2, 50, 60)), "CnnPolicy", AS_IT_IS),  # a raster of floats
        (A2C, spaces.Box(0, 1, (1, 36, 36)), "CnnPolicy", AS_IT_IS),  # and one among the features
        (A2C, CAMERA, "MlpPolicy", {}),
        (A2C, spaces.Box(0, 255, (3, 4, 2), np.uint8), "MlpPolicy", {}),  # few enough for features
        (A2C, spaces.Box(0, 3, (12, 10), np.uint8), "MlpPolicy", {}),  # a grid, no image
        (A2C, spaces.Dict({"grid": spaces.MultiBinary([70, 60]), "a": CAMERA}), None, {}),
    ],
)
def test_other_networks_and_images(
    kind: Any, space: Any, policy: str | None, arguments: dict[str, Any], tmp_path: Path
) -> None:
    model = train(tmp_path, kind, space, policy=policy, arguments=arguments)
    source = load(tmp_path)
    batch = seen(space, 100)
    expected, _ = model.predict(batch, deterministic=True)
    # Where images are not scaled, numbers of hundreds are rounded.
    np.testing.assert_allclose(act(source, batch), expected, rtol=0, atol=5e-5)


def shapes(source: Artifact) -> list[Any]:
    return [(leaf.space.shape, leaf.space.description) for leaf in source.preprocessing.leaves]


def test_a_layout_that_the_file_does_not_tell_is_said(tmp_path: Path) -> None:
    """Of an environment with the channels first, and one with the channels last."""
    first = spaces.Box(0, 255, (3, 36, 40), np.uint8)
    for space in (first, CAMERA):
        folder = tmp_path / str(space.shape[0])
        folder.mkdir()
        model = train(folder, A2C, space)
        told: list[str] = []
        source = load(folder, tell=told.append)
        assert shapes(source) == [((36, 40, 3), "image: height, width, channels")]
        row = ("observation", "", "image, 36 × 40 × 3 uint8", "0 to 255")
        assert (*row, "image: height, width, channels") in described(source.card.signature)
        assert "is taken as 36 × 40 × 3, the channels last" in told[0]
        assert "say --image-layout chw" in told[0]
        assert "colours (RGB or BGR), or stacked frames" in told[1]
        batch = seen(CAMERA, 50)
        expected, _ = model.predict(np.moveaxis(batch, -1, 1), deterministic=True)
        np.testing.assert_allclose(act(source, batch), expected, rtol=0, atol=1e-5)
    told.clear()
    (folder / "artifacts" / "v1.0.0").rename(folder / "other")
    source = load(folder, image_layout="chw", tell=told.append)
    assert shapes(source) == [((3, 36, 40), "image: channels, height, width")]
    assert len(told) == 1
    np.testing.assert_allclose(act(source, np.moveaxis(batch, -1, 1)), expected, rtol=0, atol=1e-5)


def test_the_layout_before_it_was_transposed(tmp_path: Path) -> None:
    """VecNormalize keeps what the environment gave."""
    env = VecNormalize(DummyVecEnv([lambda: Random(CAMERA, WHEEL)]), norm_obs=False)
    train(tmp_path, A2C, CAMERA, env=env)
    told: list[str] = []
    source = load(tmp_path, vecnormalize="none", tell=told.append)
    assert shapes(source) == [((36, 40, 3), "image: height, width, channels")]
    assert len(told) == 1


def test_what_is_never_transposed(tmp_path: Path) -> None:
    """As many channels as pixels in a row: Stable-Baselines3 takes the first for the channels."""
    train(tmp_path, A2C, spaces.Box(0, 255, (36, 36, 36), np.uint8))
    told: list[str] = []
    source = load(tmp_path, tell=told.append)
    assert shapes(source) == [((36, 36, 36), "image: channels, height, width")]
    assert len(told) == 1


def test_frames_that_a_wrapper_stacks_are_refused(tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([lambda: Random(CAMERA, WHEEL)]), norm_obs=False)
    train(tmp_path, A2C, CAMERA, env=VecFrameStack(env, 2))
    with pytest.raises(ArtifactError, match="say --frame-stack 2, if that is its numb") as told:
        load(tmp_path, vecnormalize="none")
    assert "\n" not in str(told.value)


def test_normalised_images_are_refused(tmp_path: Path) -> None:
    """With the statistics of each pixel."""
    env = VecNormalize(VecTransposeImage(DummyVecEnv([lambda: Random(CAMERA, WHEEL)])))
    train(tmp_path, A2C, CAMERA, env=env, arguments=AS_IT_IS)
    env.save(str(tmp_path / "statistics.pkl"))
    with pytest.raises(ArtifactError, match="normalises the observation, which is an im") as told:
        load(tmp_path, vecnormalize=tmp_path / "statistics.pkl")
    assert "\n" not in str(told.value)


class Own(NatureCNN):
    """An extractor of one's own."""


def test_an_own_extractor_is_named(tmp_path: Path) -> None:
    train(tmp_path, A2C, CAMERA, arguments={"features_extractor_class": Own})
    with pytest.raises(ArtifactError, match=r"features_extractor_class is the class .*\.Own, w"):
        load(tmp_path)


@pytest.mark.live
def test_served(tmp_path: Path) -> None:
    """From the zip to the gateway's answers, images as base64, statistics and all."""
    path = FOLDER / "ppo-view-np2"
    folder = import_sb3(
        path.with_suffix(".zip"), "v1.0.0", tmp_path, vecnormalize=path.with_suffix(".pkl")
    )
    export([folder], tmp_path / "repository", ["onnx"])
    batch = dict(np.load(path.with_suffix(".npz")))
    del batch["actions"]
    expected = act(artifact.load(folder), batch)
    images = [base64.b64encode(image).decode() for image in batch["camera"]]
    rows = [
        {"camera": image, "speed": speed.tolist(), "gear": int(gear)}
        for image, speed, gear in zip(images, batch["speed"], batch["gear"], strict=True)
    ]
    body = {"observations": rows, "deterministic": True}
    with running_stack(MODEL_REPOSITORY=str(tmp_path / "repository")) as stack:
        answer = httpx.post(f"{stack.gateway_url}/predict", json=body, timeout=20).json()
    np.testing.assert_allclose(answer["actions"], expected, rtol=0, atol=1e-5)
