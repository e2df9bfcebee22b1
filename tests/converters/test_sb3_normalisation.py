"""What a zip tells of VecNormalize: never taken wrongly without a word, never claimed wrongly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DDPG, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from converters.artifact.card import ArtifactError
from converters.importers import sb3_normalisation
from converters.importers.sb3 import import_sb3

FOLDER = Path(__file__).parent / "sb3_files"
LOW, HIGH = np.full(7, -1000, np.float32), np.full(7, 1000, np.float32)


class Random(gymnasium.Env[Any, Any]):
    """Observations around a mean, within ±scale, in a Box that may be wrong."""

    action_space = gymnasium.spaces.Box(np.array([0, 0, -1], np.float32), np.ones(3, np.float32))

    def __init__(self, scale: float, low: Any = LOW, high: Any = HIGH) -> None:
        self.observation_space = gymnasium.spaces.Box(low, high)
        self.generator, self.scale, self.steps = np.random.default_rng(7), scale, 0

    def reset(self, **_: Any) -> Any:
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return self._seen(), 0.1 * self.steps, self.steps % 10 == 0, False, {}

    def _seen(self) -> Any:
        return self.generator.uniform(0.3 * self.scale, self.scale, 7).astype(np.float32)


OPTIONS: dict[Any, dict[str, Any]] = {
    A2C: {},
    **{
        kind: {"learning_starts": 8, "batch_size": 8, "buffer_size": 64}
        for kind in (SAC, TD3, DDPG)
    },
}
OFF_POLICY = [SAC, TD3, DDPG]


def _train(folder: Path, kind: Any, env: Any, steps: int = 25) -> tuple[Any, Path]:
    options = OPTIONS[kind]
    model = kind("MlpPolicy", env, policy_kwargs={"net_arch": [4]}, device="cpu", seed=1, **options)
    model.learn(steps)
    model.save(folder / "policy.zip")
    if isinstance(env, VecNormalize):
        env.save(str(folder / "vecnormalize.pkl"))
    return model, folder / "policy.zip"


def _import(folder: Path, **given: Any) -> Path:
    path = folder / "policy.zip"
    return import_sb3(path, "v1.0.0", folder / "artifacts", fields=["vector"], **given)


@pytest.mark.parametrize("kind", OFF_POLICY)
@pytest.mark.parametrize("normalised", [False, True])
def test_where_bounds_cannot_tell_it_asks(kind: Any, normalised: bool, tmp_path: Path) -> None:
    env: Any = DummyVecEnv([lambda: Random(1.0)])
    _train(tmp_path, kind, VecNormalize(env) if normalised else env)
    with pytest.raises(ArtifactError, match="give its statistics with --vecnormalize FILE, or --v"):
        _import(tmp_path)
    given: Any = tmp_path / "vecnormalize.pkl" if normalised else "none"
    assert _import(tmp_path, vecnormalize=given).is_dir()


@pytest.mark.parametrize("kind", [A2C, *OFF_POLICY])
def test_normalised_is_never_taken_without_a_word(kind: Any, tmp_path: Path) -> None:
    for scale in (0.1, 1.0, 50.0, 900.0):
        _train(tmp_path, kind, VecNormalize(DummyVecEnv([lambda size=scale: Random(size)])))
        with pytest.raises(ArtifactError, match="--vecnormalize FILE"):
            _import(tmp_path)


@pytest.mark.parametrize("kind", [A2C, *OFF_POLICY])
def test_plain_is_taken_and_statistics_for_it_refused(kind: Any, tmp_path: Path) -> None:
    """Numbers of 50 are no normalised ones. The Box's bounds are wrong, which tells nothing."""
    env = DummyVecEnv([lambda: Random(50.0, -np.ones(7, np.float32), np.ones(7, np.float32))])
    _train(tmp_path, kind, env)
    other = VecNormalize(DummyVecEnv([lambda: Random(50.0)]))
    other.save(str(tmp_path / "other.pkl"))
    with pytest.raises(ArtifactError, match="observations that were not normalised, and .*other"):
        _import(tmp_path, vecnormalize=tmp_path / "other.pkl")
    assert _import(tmp_path).is_dir()


@pytest.mark.parametrize("kind", OFF_POLICY)
def test_only_rewards_normalised(kind: Any, tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([lambda: Random(1.0)]), norm_obs=False)
    _train(tmp_path, kind, env)
    assert _import(tmp_path).is_dir()


def test_only_rewards_normalised_on_policy(tmp_path: Path) -> None:
    """The zip does not tell what was normalised. The statistics do."""
    _train(tmp_path, A2C, VecNormalize(DummyVecEnv([lambda: Random(1.0)]), norm_obs=False))
    with pytest.raises(ArtifactError, match="it was trained behind VecNormalize: give") as told:
        _import(tmp_path)
    assert "normalised observations" not in str(told.value)
    assert _import(tmp_path, vecnormalize=tmp_path / "vecnormalize.pkl").is_dir()


STACKED = "it was trained behind VecFrameStack: say --frame-stack 3, if that is its number of fram"


@pytest.mark.parametrize("kind", OFF_POLICY)
def test_stacked_frames(kind: Any, tmp_path: Path) -> None:
    """The last observation is the one before, one frame further."""
    low, high = np.full(7, 0.2, np.float32), np.full(7, 1.1, np.float32)  # a first frame is 0
    env = VecFrameStack(DummyVecEnv([lambda: Random(1.0, low, high)]), 3)
    _train(tmp_path, kind, env, steps=33)
    for vecnormalize in (None, "none"):
        with pytest.raises(ArtifactError, match=STACKED) as told:
            _import(tmp_path, vecnormalize=vecnormalize)
        assert "\n" not in str(told.value)


def test_stacked_frames_of_normalised_observations(tmp_path: Path) -> None:
    """Only on policy can it be trained so."""
    _train(tmp_path, A2C, VecFrameStack(VecNormalize(DummyVecEnv([lambda: Random(1.0)])), 3))
    with pytest.raises(ArtifactError, match=STACKED):
        _import(tmp_path)


def test_what_only_looks_like_stacked_frames(tmp_path: Path) -> None:
    """A constant observation, and one that holds one number of the one before."""
    for rows in ([[0.5] * 4, [0.5] * 4], [[0.25, 0.5], [0.5, 0.75]], [[1, 2, 3, 4], [0, 1, 2, 3]]):
        original, last = np.array(rows, np.float32)[:, None]
        assert not sb3_normalisation._shifted(last, original)


@pytest.mark.parametrize("kind", [A2C, SAC])
@pytest.mark.parametrize("way", ["set_parameters", "exclude", "num_timesteps", "unreadable"])
def test_a_zip_that_holds_no_training_does_not_tell(kind: Any, way: str, tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([lambda: Random(50.0)]))
    model, path = _train(tmp_path, kind, env)
    if way == "set_parameters":
        other = kind("MlpPolicy", env, policy_kwargs={"net_arch": [4]}, device="cpu")
        other.set_parameters(path, device="cpu")
        other.save(path)
    elif way == "exclude":
        model.save(path, exclude=["_last_original_obs"])
    elif way == "num_timesteps":
        model.num_timesteps = 0
        model.save(path)
    else:
        model._last_original_obs = torch.tensor(model._last_original_obs)
        model.save(path)
    with pytest.raises(ArtifactError, match="VecNormalize: give its statistics") as told:
        _import(tmp_path)
    assert "\n" not in str(told.value)
    assert _import(tmp_path, vecnormalize=tmp_path / "vecnormalize.pkl").is_dir()


@pytest.mark.parametrize(
    "name", ["ppo-box-np2", "ppo-box-py313", "ppo-box-sb18", "sac-box-np1", "sac-box-np2",
             "sac-box-py313", "sac-box-sb16"]
)  # fmt: skip
def test_saved_elsewhere_and_normalised(name: str, tmp_path: Path) -> None:
    """The zip and its statistics, whatever saved them."""
    path = FOLDER / f"{name}.zip"
    with pytest.raises(ArtifactError, match="--vecnormalize FILE"):
        import_sb3(path, "v1.0.0", tmp_path, fields=["vector"])
    given = path.with_suffix(".pkl")
    folder = import_sb3(path, "v1.0.0", tmp_path, fields=["vector"], vecnormalize=given)
    assert folder.is_dir()
