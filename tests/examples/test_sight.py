"""The example `sight`: its raster of the road."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from examples.sight import BEHIND, PIXEL, SIZE, SightEnv
from examples.train import MirrorSightEnv


def test_follows_the_gymnasium_api(recwarn: pytest.WarningsRecorder) -> None:
    check_env(SightEnv(), skip_render_check=True)
    assert [str(warning.message) for warning in recwarn] == []


def test_the_raster_is_the_road_around_the_car() -> None:
    env = SightEnv()
    ahead = (SIZE - BEHIND - 0.5 - np.arange(SIZE)[:, None, None]) * PIXEL
    left = (SIZE / 2 - 0.5 - np.arange(SIZE)[None, :, None]) * PIXEL
    for seed in range(10):
        road = env.reset(seed=seed)[0]["road"][:, :, 0]
        cos, sin = np.cos(env.heading), np.sin(env.heading)
        pixels = (env.x, env.y) + ahead * (cos, sin) + left * (-sin, cos)
        gaps = pixels[:, :, None] - env.track.centre
        distance = np.hypot(gaps[..., 0], gaps[..., 1]).min(axis=2)
        assert (road[distance < env.track.width / 2.0 - PIXEL] == 255).all()
        assert (road[distance > env.track.width / 2.0 + PIXEL] == 0).all()
        assert len(np.unique(road)) > 3  # at an edge a pixel says how much of it is road


def test_the_mirror_shows_right_for_left() -> None:
    plain, mirror = SightEnv(), MirrorSightEnv()
    for env in (plain, mirror):
        env.reset(seed=0)
    for _ in range(20):
        seen, *_ = plain.step(np.array([1, 0, 0.3], np.float32))
        mirrored, *_ = mirror.step(np.array([1, 0, -0.3], np.float32))
    np.testing.assert_array_equal(seen["road"], mirrored["road"][:, ::-1])
    assert seen["speed"] == mirrored["speed"] > 10.0
