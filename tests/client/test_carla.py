"""The adapter by itself, and an agent that drives a small world through the real service.

The types are the real ones of `carla`; there is no simulator here (see small_world).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import carla
import numpy as np
import pytest

from carlarl_client import Action, LatencyInTheLoop, PolicyClient, SafeDriver
from carlarl_client.carla import CarlaAgent, Lidar, RangeFinders, Steering, control, speed_kmh
from examples.track import SENSOR_ANGLES, SENSOR_REACH, STEERING_RATE
from tests.client.small_world import BEARINGS, MAX_STEER_ANGLE, World, straight_road

FINDERS = RangeFinders()


@pytest.fixture
def world() -> World:
    world = World()
    world.settings = carla.WorldSettings(synchronous_mode=True, fixed_delta_seconds=0.05)
    return world


@pytest.fixture
def driver(gateway_url: str) -> Iterator[SafeDriver]:
    with PolicyClient(gateway_url) as client:
        yield SafeDriver(client, deadline=20.0)


def test_the_range_finders_are_those_of_training() -> None:
    assert FINDERS.bearings == SENSOR_ANGLES
    assert FINDERS.reach == SENSOR_REACH
    assert Steering().rate == STEERING_RATE


def test_points_are_read_in_their_sectors() -> None:
    def at(bearing: float, distance: float, z: float = 1.0) -> list[float]:
        angle = math.radians(bearing)
        return [distance * math.cos(angle), -distance * math.sin(angle), z, 1.0]

    cloud = [
        at(60, 8.0),
        at(60.5, 12.0),  # behind the first
        at(30, 20.0, z=0.1),  # the road
        at(0, 40.0),
        at(0, 30.0, z=6.0),  # a bridge
        at(-15, 5.0),  # between two
        at(-30, 0.5),  # the own car
        at(-60, 90.0),  # out of reach
    ]
    assert FINDERS.from_points(cloud, (0, 0, 0)) == pytest.approx([0.1, 1.0, 0.5, 1.0, 1.0])
    assert FINDERS.from_points(np.empty((0, 4)), (0, 0, 0)) == [1.0] * 5


def test_the_mount_counts() -> None:
    wall_ahead = [[38.0, 0.0, -1.4, 1.0]]
    assert FINDERS.from_points(wall_ahead, (2.0, 0.0, 2.4))[2] == pytest.approx(0.5)


@pytest.mark.parametrize("start", [20.0, 150.0, 330.0, 480.0])
def test_lidar_and_ray_casts_see_what_training_showed(world: World, start: float) -> None:
    (seen, _) = world.env.reset(options={"start": start})
    points = world.points(carla.Location(1.0, 0.0, 2.4), BEARINGS)
    lidar = FINDERS.from_points(points, (1.0, 0.0, 2.4))
    np.testing.assert_allclose(lidar, seen[2:], rtol=0.12)
    rays = FINDERS.from_ray_casts(world, world.vehicle.get_transform())
    np.testing.assert_allclose(rays, seen[2:], atol=1e-4)


def test_a_real_map_gives_the_road_s_edges() -> None:
    at = carla.Transform(carla.Location(50.0, 1.0, 0.0), carla.Rotation(yaw=0.0))  # 1 m right
    far = [6 / math.sin(math.radians(60)), 12.0, 80.0, 8.0, 4 / math.sin(math.radians(60))]
    readings = FINDERS.from_map(straight_road(), at)
    np.testing.assert_allclose(readings, np.array(far) / 80.0, atol=0.001)
    end = carla.Transform(carla.Location(270.0, 0.5, 0.0), carla.Rotation(yaw=0.0))
    # Beyond a road's end a map still gives its lanes for a few metres.
    assert FINDERS.from_map(straight_road(), end)[2] == pytest.approx(30.0 / 80.0, abs=0.05)


def test_speed_is_km_h_and_bounded() -> None:
    assert speed_kmh(carla.Vector3D(3.0, -4.0, 0.0)) == pytest.approx(18.0)
    assert speed_kmh(carla.Vector3D(100.0, 0.0, 0.0)) == 200.0


def test_control_is_the_action() -> None:
    made = control(Action(0.25, 0.5, -1.0), -0.75)
    assert isinstance(made, carla.VehicleControl)
    assert (made.throttle, made.brake, made.steer) == (0.25, 0.5, -0.75)


def test_the_wheel_turns_at_the_rate_of_training() -> None:
    steering = Steering(scale=0.5)
    given = [steering.turn(1.0, 0.05) for _ in range(6)]
    assert given == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.5])
    assert steering.position == 1.0
    assert steering.turn(-1.0, 0.05) == pytest.approx(0.4)


def test_an_agent_drives_a_lap_by_lidar(world: World, driver: SafeDriver) -> None:
    world.settings = carla.WorldSettings(synchronous_mode=False)
    lidar = Lidar(world, world.vehicle)
    with CarlaAgent(world, world.vehicle, driver, lidar.read) as agent:
        assert world.settings.synchronous_mode
        assert world.settings.fixed_delta_seconds == pytest.approx(0.05)
        while not world.info.get("lap_times") and world.frame < 1600:
            step = agent.tick()
            assert step is not None
            assert step.error is None
    lidar.close()
    assert world.info["off_track"] == 0
    assert 30.0 < world.info["lap_times"][0] < 50.0
    assert driver.steps == world.frame
    assert not world.settings.synchronous_mode
    assert world.vehicle.control.brake == 1.0
    assert not world.sensors[0].alive
    assert world.sensors[0].attributes["rotation_frequency"] == "20.0"


def test_a_world_whose_vehicle_is_gone_goes_on_by_itself(world: World, driver: SafeDriver) -> None:
    world.settings = carla.WorldSettings(synchronous_mode=False)
    agent = CarlaAgent(world, world.vehicle, driver, lambda _: [1.0] * 5)
    with pytest.raises(RuntimeError, match="destroyed actor"), agent:
        world.vehicle.destroy()
    assert not world.settings.synchronous_mode


def test_the_steer_is_the_wheel_angle_of_training(world: World, driver: SafeDriver) -> None:
    with CarlaAgent(world, world.vehicle, driver, lambda _: [1.0, 1.0, 1.0, 0.1, 0.1]) as agent:
        for _ in range(10):
            agent.tick()
        steer = world.vehicle.control.steer
        assert -1.0 <= agent.observe(world.frame).steering < 0.0  # to the left, where there is room
        scale = 0.4 / math.radians(MAX_STEER_ANGLE)
        assert steer == pytest.approx(agent.observe(world.frame).steering * scale, rel=1e-5)


def test_latency_is_charged_in_simulated_steps(world: World, driver: SafeDriver) -> None:
    latency = LatencyInTheLoop(0.05, latency_ms=100.0)
    finders = RangeFinders()
    with CarlaAgent(
        world,
        world.vehicle,
        driver,
        lambda _: finders.from_ray_casts(world, world.vehicle.get_transform()),
        latency=latency,
    ) as agent:
        asked = [agent.tick() is not None for _ in range(9)]
    assert asked == [True, False] * 4 + [True]
    assert driver.steps == 5
    assert latency.charged_steps == 9
