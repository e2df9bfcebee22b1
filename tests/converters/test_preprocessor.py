"""Each preprocessor's lowered form, and its graph, make the features of the library itself."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from converters.artifact import pickles, preprocessor
from converters.artifact.observations import Rows
from converters.export import native
from policy_spec.signature import driving_space
from tests.converters.conftest import DEFAULT, edges
from tests.stack import ROOT
from triton_backend.preprocessing import Preprocessing

SAVED = Path(__file__).parent / "sb3_files"
OBSERVATIONS = np.random.default_rng(1).uniform(
    [0, -1, 0, 0, 0, 0, 0], [200, 1, 1, 1, 1, 1, 1], (500, 7)
)


def observed() -> np.ndarray:
    """Recorded, at the corners of the ranges, and both zeros."""
    recorded = [np.load(path) for path in sorted(ROOT.glob("artifacts/*/observations.npy"))]
    zeros = np.array([[0.0] * 7, [-0.0] * 7], np.float32)
    return np.concatenate([*recorded, edges(), zeros]).astype(np.float32)


def leaves_of(observations: np.ndarray) -> Rows:
    """Speed, steering and sensors of flat observations."""
    return observations[:, 0], observations[:, 1], observations[:, 2:]


def assert_same_features(preprocessing: Preprocessing) -> None:
    observations = observed()
    graph = native.graph(preprocessing)
    expected = preprocessing.features(observations)
    assert (
        native.features(graph, preprocessing, leaves_of(observations)).tobytes()
        == expected.tobytes()
    )
    for rows in (1, 7, 256):
        part = observations[:rows]
        assert (
            native.features(graph, preprocessing, leaves_of(part)).tobytes()
            == expected[:rows].tobytes()
        )


@pytest.mark.parametrize(
    "scaler",
    [
        StandardScaler(),
        StandardScaler(with_mean=False),
        StandardScaler(with_std=False),
        MinMaxScaler(),
        MinMaxScaler((-1, 1), clip=True),
        MaxAbsScaler(),
        RobustScaler(),
        make_pipeline(RobustScaler(), MinMaxScaler((-1, 1), clip=True), StandardScaler()),
    ],
    ids=str,
)
def test_scikit_learn(scaler: Any) -> None:
    scaler.fit(OBSERVATIONS)
    lowered = preprocessor.lower(pickles.load(pickle.dumps(scaler)), DEFAULT)
    observations = OBSERVATIONS.astype(np.float32)
    expected = scaler.transform(observations.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(lowered.features(observations), expected, rtol=2e-7, atol=1e-7)
    assert_same_features(lowered)


@pytest.mark.parametrize("clip_obs", [0.5, 1.5, 10.0])
def test_vec_normalize_bit_for_bit(clip_obs: float) -> None:
    class Random(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(-200, 200, (7,))
        action_space = gymnasium.spaces.Box(-1, 1, (3,))

    env = VecNormalize(DummyVecEnv([Random]), clip_obs=clip_obs)
    env.obs_rms.update(OBSERVATIONS)
    lowered = preprocessor.lower(pickles.load(pickle.dumps(env)), DEFAULT)
    observations = OBSERVATIONS.astype(np.float32)
    expected = env.normalize_obs(observations)
    assert lowered.features(observations).tobytes() == expected.tobytes()
    assert (np.abs(expected).max() == clip_obs) == (clip_obs < 10)  # the clipping was met
    assert_same_features(lowered)


def test_own_and_none() -> None:
    own = Preprocessing(driving_space(5), 3, (("add", (1.0,) * 7), ("clip", (0.0, 2.0))))
    assert preprocessor.lower(pickles.load(pickle.dumps(own)), DEFAULT) == own
    assert preprocessor.lower(pickles.load(pickles.NOTHING), DEFAULT).steps == ()


def test_refused() -> None:
    with pytest.raises(ValueError, match="dict is no preprocessor"):
        preprocessor.lower(pickles.load(pickle.dumps({"mean": 0})), DEFAULT)
    with pytest.raises(ValueError, match="never fitted"):
        preprocessor.lower(pickles.load(pickle.dumps(StandardScaler())), DEFAULT)
    fitted = pickles.load(pickle.dumps(StandardScaler().fit(OBSERVATIONS)))
    with pytest.raises(ValueError, match="takes 9 values, not 7"):
        preprocessor.lower(fitted, replace(DEFAULT, observation_space=driving_space(7)))


@pytest.mark.parametrize("name", [path.name for path in sorted(SAVED.glob("*.pkl"))])
def test_statistics_saved_elsewhere(name: str) -> None:
    record = pickles.load((SAVED / name).read_bytes())
    assert record.norm_obs is not any(part in name for part in ("rewards", "ddpg", "tqc"))
    if "ppo-view" in name:
        assert set(record.obs_rms) == {"speed"} == set(record.norm_obs_keys)
    elif record.norm_obs and ("dict" in name or "multidiscrete" in name):
        assert set(record.obs_rms) == {"zebra", "area"} == set(record.norm_obs_keys)
        assert record.obs_rms["zebra"].mean.values.shape == (2, 3)
    elif record.norm_obs:
        subtract, divide, clip = preprocessor.lower(record, DEFAULT).steps
        mean = record.obs_rms.mean.values
        assert clip == ("clip", (-record.clip_obs, record.clip_obs))
        np.testing.assert_array_equal(subtract[1], mean)
        assert len(divide[1]) == 7
    else:
        assert preprocessor.lower(record, DEFAULT).steps == ()


@pytest.mark.parametrize("clip", [False, True])
def test_a_scaler_keeps_its_clip(clip: bool) -> None:
    scaler = MaxAbsScaler(clip=clip).fit(np.eye(7) * 3)
    rows = np.linspace(-9, 9, 70, dtype=np.float32).reshape(10, 7)
    found = preprocessor.lower(pickles.load(pickle.dumps(scaler)), DEFAULT).features(rows)
    np.testing.assert_allclose(found, scaler.transform(rows), atol=1e-6)
    assert (np.abs(found).max() > 1) is not clip
