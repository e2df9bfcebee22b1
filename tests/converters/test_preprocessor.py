"""Each preprocessor's lowered form makes the features that the library itself makes."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from converters.artifact import pickles, preprocessor
from triton_backend.preprocessing import Preprocessing

OBSERVATIONS = np.random.default_rng(1).uniform(
    [0, -1, 0, 0, 0, 0, 0], [200, 1, 1, 1, 1, 1, 1], (500, 7)
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
        make_pipeline(RobustScaler(), MinMaxScaler((-1, 1))),
    ],
    ids=str,
)
def test_scikit_learn(scaler: Any) -> None:
    scaler.fit(OBSERVATIONS)
    lowered = preprocessor.lower(pickles.load(pickle.dumps(scaler)), 5, 3)
    observations = OBSERVATIONS.astype(np.float32)
    expected = scaler.transform(observations.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(lowered.features(observations), expected, rtol=2e-7, atol=1e-7)


def test_vec_normalize_bit_for_bit() -> None:
    class Random(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(-200, 200, (7,))
        action_space = gymnasium.spaces.Box(-1, 1, (3,))

    env = VecNormalize(DummyVecEnv([Random]), clip_obs=1.5)
    env.obs_rms.update(OBSERVATIONS)
    lowered = preprocessor.lower(pickles.load(pickle.dumps(env)), 5, 3)
    observations = OBSERVATIONS.astype(np.float32)
    expected = env.normalize_obs(observations)
    assert lowered.features(observations).tobytes() == expected.tobytes()
    assert np.abs(expected).max() == 1.5  # the clipping was met


def test_own_and_none() -> None:
    own = Preprocessing(5, 3, (("add", (1.0,) * 7), ("clip", (0.0, 2.0))))
    assert preprocessor.lower(pickles.load(pickle.dumps(own)), 5, 3) == own
    assert preprocessor.lower(pickles.load(pickles.NOTHING), 5, 3).steps == ()


def test_refused() -> None:
    with pytest.raises(ValueError, match="dict is no preprocessor"):
        preprocessor.lower(pickles.load(pickle.dumps({"mean": 0})), 5, 3)
    with pytest.raises(ValueError, match="never fitted"):
        preprocessor.lower(pickles.load(pickle.dumps(StandardScaler())), 5, 3)
    fitted = pickles.load(pickle.dumps(StandardScaler().fit(OBSERVATIONS)))
    with pytest.raises(ValueError, match="takes 9 values, not 7"):
        preprocessor.lower(fitted, 7, 3)
