"""The track, its range finders and the car that drives on it."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from examples.track import CAR_WIDTH, SENSOR_REACH, Track, TrackEnv

COAST, FULL_THROTTLE, FULL_BRAKE = ([0, 0, 0], [1, 0, 0], [0, 1, 0])


@pytest.fixture(scope="module")
def track() -> Track:
    return Track()


def steer_to_centre(env: TrackEnv, speed_kmh: float = 25.0) -> np.ndarray:
    """A slow driver that aims at the centre line 6 m ahead."""
    distance, _ = env.track.locate(env.x, env.y)
    x, y, _ = env.track.pose(distance + 6.0)
    bearing = math.atan2(y - env.y, x - env.x) - env.heading
    bearing = (bearing + math.pi) % (2.0 * math.pi) - math.pi
    throttle = float(env.speed * 3.6 < speed_kmh)
    return np.array([throttle, 0.0, np.clip(-2.0 * bearing, -1.0, 1.0)], dtype=np.float32)


def test_follows_the_gymnasium_api(recwarn: pytest.WarningsRecorder) -> None:
    check_env(gymnasium.make("examples.track:CarlaRL/Track-v0").unwrapped)
    assert [str(warning.message) for warning in recwarn] == []


def test_spaces_are_those_of_the_api() -> None:
    env = TrackEnv()
    assert env.observation_space == gymnasium.spaces.Box(
        np.array([0, -1, 0, 0, 0, 0, 0], np.float32), np.array([200, 1, 1, 1, 1, 1, 1], np.float32)
    )
    assert env.action_space == gymnasium.spaces.Box(
        np.array([0, 0, -1], np.float32), np.array([1, 1, 1], np.float32)
    )


def test_same_seed_gives_the_same_drive() -> None:
    def rollout(seed: int) -> np.ndarray:
        env = TrackEnv(put_back=True)
        observations = [env.reset(seed=seed)[0]]
        env.action_space.seed(seed)
        observations += [env.step(env.action_space.sample())[0] for _ in range(200)]
        return np.stack(observations)

    np.testing.assert_array_equal(rollout(3), rollout(3))
    assert not np.array_equal(rollout(3)[0], rollout(4)[0])


def test_observations_stay_in_their_space_over_a_wild_drive() -> None:
    env = TrackEnv(put_back=True, max_steps=None)
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    for _ in range(2000):
        assert observation in env.observation_space
        observation, *_ = env.step(env.action_space.sample())


def test_track_is_a_closed_loop_of_constant_width(track: Track) -> None:
    for line in (track.centre, track.left, track.right):
        np.testing.assert_allclose(line[0], line[-1])
    np.testing.assert_allclose(np.hypot(*(track.left - track.right).T), track.width)
    assert track.heading[-1] - track.heading[0] == pytest.approx(2.0 * math.pi)
    # No bend is so tight that its inner edge folds over.
    assert np.abs(track.curvature).max() < 1.0 / (track.width / 2.0)


@pytest.mark.parametrize("offset", [-4.0, 0.0, 2.5])
def test_locate_inverts_pose(track: Track, offset: float) -> None:
    for distance in np.arange(0.5, track.length, 7.3):
        x, y, heading = track.pose(distance)
        found, found_offset = track.locate(
            x - offset * math.sin(heading), y + offset * math.cos(heading)
        )
        gap = (found - distance + track.length / 2.0) % track.length - track.length / 2.0
        assert gap == pytest.approx(0.0, abs=0.15)
        assert found_offset == pytest.approx(offset, abs=0.1)


def test_rays_on_a_circle_have_the_lengths_of_geometry() -> None:
    turn = np.linspace(0.0, 2.0 * math.pi, 60, endpoint=False)
    circle = Track(tuple((50.0 * math.cos(a), 50.0 * math.sin(a)) for a in turn), width=10.0)
    # From (50, 0): outwards, inwards, straight ahead along the tangent to the outer edge (55 m).
    ranges = circle.ranges(50.0, 0.0, np.array([0.0, math.pi, math.pi / 2.0]))
    np.testing.assert_allclose(ranges, [5.0, 5.0, math.sqrt(55.0**2 - 50.0**2)], atol=0.05)


def test_a_ray_ends_at_its_reach(track: Track) -> None:
    x, y, heading = track.pose(20.0)
    assert track.ranges(x, y, np.array([heading]), reach=12.0)[0] == 12.0


def test_sensors_are_ordered_from_left_to_right() -> None:
    env = TrackEnv()
    observation, _ = env.reset(options={"start": 20.0})  # on the main straight
    # 5 m to either side, seen at 60 and 30 degrees.
    expected = np.array([5.0 / math.sin(math.radians(angle)) for angle in (60, 30)]) / SENSOR_REACH
    np.testing.assert_allclose(observation[2:4], expected, rtol=0.15)
    np.testing.assert_allclose(observation[:4:-1], expected, rtol=0.15)
    env.x -= 3.0 * math.sin(env.heading)  # 3 m to the left
    env.y += 3.0 * math.cos(env.heading)
    observation, *_ = env.step(np.array(COAST, np.float32))
    assert observation[2] < observation[6]
    assert observation[3] < observation[5]


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_positive_steer_turns_right(side: float) -> None:
    env = TrackEnv()
    env.reset(options={"start": 20.0})
    before = env.heading
    for _ in range(10):
        observation, *_ = env.step(np.array([1.0, 0.0, side], np.float32))
    assert np.sign(env.heading - before) == -side  # headings are counter-clockwise
    assert observation[1] == side


def test_steering_moves_at_a_limited_rate() -> None:
    env = TrackEnv()
    env.reset(options={"start": 0.0})
    seen = [env.step(np.array([0, 0, 1], np.float32))[0][1] for _ in range(6)]
    np.testing.assert_allclose(seen, [0.2, 0.4, 0.6, 0.8, 1.0, 1.0], rtol=1e-6)


def test_throttle_speeds_up_and_brake_slows_to_a_standstill() -> None:
    env = TrackEnv()
    env.reset(options={"start": 0.0})
    for _ in range(20):
        *_, info = env.step(np.array(FULL_THROTTLE, np.float32))
    assert 18.0 < info["speed"] < 21.6  # km/h after a second at less than 6 m/s^2
    for _ in range(20):
        *_, info = env.step(np.array(FULL_BRAKE, np.float32))
    assert info["speed"] == 0.0


def test_lateral_acceleration_is_limited_by_grip() -> None:
    env = TrackEnv()
    env.reset(options={"start": 20.0})
    env.speed = 30.0
    env.steering = 1.0
    before = env.heading
    env.step(np.array([0, 0, 1], np.float32))
    assert abs(env.heading - before) / 0.05 * env.speed == pytest.approx(8.0, rel=1e-6)


def test_leaving_the_track_ends_the_episode() -> None:
    env = TrackEnv()
    env.reset(options={"start": 0.0})
    terminated, rewards = False, []
    while not terminated:
        _, reward, terminated, truncated, info = env.step(np.array(FULL_THROTTLE, np.float32))
        rewards.append(reward)
        assert not truncated
    assert info["off_track"] == 1
    assert rewards[-1] < -20.0 < 0.0 < min(rewards[-20:-1])
    _, offset = env.track.locate(env.x, env.y)
    assert abs(offset) > (env.track.width - CAR_WIDTH) / 2.0


def test_put_back_goes_on_from_the_centre_line_at_standstill() -> None:
    env = TrackEnv(put_back=True)
    env.reset(options={"start": 0.0})
    info = {"off_track": 0, "progress": 0.0}
    while info["off_track"] == 0:
        before = info["progress"]
        observation, _, terminated, _, info = env.step(np.array(FULL_THROTTLE, np.float32))
        assert not terminated
    assert info["progress"] == pytest.approx(before, abs=3.0)
    assert info["speed"] == observation[0] == observation[1] == 0.0
    distance, offset = env.track.locate(env.x, env.y)
    assert offset == pytest.approx(0.0, abs=0.1)
    assert env.heading == pytest.approx(env.track.pose(distance)[2], abs=0.05)


def test_episode_is_truncated_at_max_steps() -> None:
    env = TrackEnv(max_steps=3)
    env.reset(options={"start": 0.0})
    assert [env.step(np.array(COAST, np.float32))[3] for _ in range(3)] == [False, False, True]


def test_laps_and_lap_times_are_counted() -> None:
    env = TrackEnv(max_steps=None)
    _, info = env.reset(options={"start": 0.0})
    assert info["laps"] == info["progress"] == 0.0
    steps, progress = 0, 0.0
    while len(info["lap_times"]) < 2:
        _, reward, terminated, _, info = env.step(steer_to_centre(env))
        assert not terminated
        assert reward <= info["progress"] - progress + 1e-9
        progress = info["progress"]
        steps += 1
    assert info["laps"] == pytest.approx(2.0, abs=0.002)
    assert info["progress"] == pytest.approx(2.0 * env.track.length, abs=1.0)
    assert sum(info["lap_times"]) == pytest.approx(steps * 0.05, abs=0.05)
    assert info["lap_times"][1] < info["lap_times"][0]  # the first began at standstill


def test_driving_backwards_is_negative_progress() -> None:
    env = TrackEnv(max_steps=None)
    env.reset(options={"start": 20.0})
    env.heading += math.pi
    for _ in range(40):
        _, reward, *_, info = env.step(np.array(FULL_THROTTLE, np.float32))
    assert info["progress"] < -5.0
    assert reward < 0.0
    assert info["lap_times"] == ()
