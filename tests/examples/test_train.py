"""The training script: what it makes of a table, and that a seed repeats it."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from examples.track import TrackEnv
from examples.train import TableEnv, read_table, train


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_each_action_is_a_row_of_the_table() -> None:
    table = read_table()
    steps, track = TableEnv(TrackEnv(), table), TrackEnv()
    check_env(steps, skip_render_check=True)
    assert steps.action_space == spaces.Discrete(15)
    for index, row in enumerate(table):
        assert row in track.action_space
        for env in (steps, track):
            env.reset(seed=index)
        seen, *_ = steps.step(np.int64(index))
        np.testing.assert_array_equal(seen, track.step(row)[0])


@pytest.mark.reliability
def test_a_seed_repeats_the_training() -> None:
    def weights(seed: int) -> np.ndarray:
        model, _ = train(1, seed, table=read_table())  # one rollout
        return np.concatenate([one.detach().numpy().ravel() for one in model.policy.parameters()])

    np.testing.assert_array_equal(weights(0), weights(0))
    assert not np.array_equal(weights(0), weights(1))
