"""The training script: what it makes of a table, and that a seed repeats it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from examples import imitate
from examples.imitate import Teacher
from examples.track import TrackEnv
from examples.train import TableEnv, read_table, save, train


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


@pytest.mark.reliability
@pytest.mark.parametrize("memory", [True, False])
def test_a_seed_repeats_an_imitation(
    memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ROUNDS", "UPDATES"):
        monkeypatch.setattr(imitate, name, 2)
    save(tmp_path, *train(1, 0), {}, [np.zeros(7)])
    teacher = Teacher(tmp_path)

    def weights(seed: int) -> np.ndarray:
        policy = imitate.imitate(teacher, seed, memory=memory)[0].policy
        return np.concatenate([one.detach().numpy().ravel() for one in policy.parameters()])

    np.testing.assert_array_equal(weights(0), weights(0))
    assert not np.array_equal(weights(0), weights(1))
