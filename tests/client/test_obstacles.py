"""Obstacle sensors as range finders, by themselves and in the small world."""

from __future__ import annotations

import threading
import time

import carla
import numpy as np
import pytest

from carlarl_client import PolicyClient, SafeDriver
from carlarl_client.carla import BEARINGS, CarlaAgent, RangeFinders
from carlarl_client.obstacles import ObstacleSensors
from tests.client.small_world import EVENT_S, Met, Sensor, World

REACH, RADIUS = RangeFinders().reach, 0.1


@pytest.fixture
def world() -> World:
    world = World()
    world.settings = carla.WorldSettings(synchronous_mode=True, fixed_delta_seconds=0.05)
    return world


@pytest.fixture
def still(world: World) -> tuple[ObstacleSensors, list[Sensor]]:
    """Sensors whose events a test makes itself, and they."""
    return ObstacleSensors(world, world.vehicle, timeout=0.3), world.sensors


def meet(sensor: Sensor, frame: int, distance: float) -> None:
    assert sensor.callback is not None
    sensor.callback(Met(frame, distance))


def test_they_look_where_the_finders_do(still: tuple[ObstacleSensors, list[Sensor]]) -> None:
    _, sensors = still
    assert [sensor.mount.rotation.yaw for sensor in sensors] == [-one for one in BEARINGS]
    assert all(
        sensor.attributes == {"distance": "79.9", "hit_radius": "0.1", "only_dynamics": "false"}
        for sensor in sensors
    )


def test_nothing_met_is_the_whole_reach(still: tuple[ObstacleSensors, list[Sensor]]) -> None:
    finders, sensors = still
    meet(sensors[1], 7, 20.0 - RADIUS)
    assert finders.read(7) == [1.0, 20.0 / REACH, 1.0, 1.0, 1.0]
    began = time.monotonic()
    meet(sensors[1], 8, 10.0 - RADIUS)
    assert finders.read(8)[1] == pytest.approx(10.0 / REACH)
    assert time.monotonic() - began < 0.2  # those that met nothing are not waited for again


def test_what_was_met_is_waited_for(still: tuple[ObstacleSensors, list[Sensor]]) -> None:
    finders, sensors = still
    for sensor in sensors:
        meet(sensor, 7, 40.0 - RADIUS)
    assert finders.read(7) == pytest.approx([0.5] * 5)
    for sensor in sensors[1:]:
        meet(sensor, 8, 20.0 - RADIUS)
    late = threading.Timer(0.05, meet, [sensors[0], 8, 20.0 - RADIUS])
    late.start()
    assert finders.read(8) == pytest.approx([0.25] * 5)
    late.join()


def test_a_reading_is_kept_for_one_tick(still: tuple[ObstacleSensors, list[Sensor]]) -> None:
    """Whether its event is late or nothing is met any more can't be told: the wall is believed."""
    finders, sensors = still
    meet(sensors[2], 7, 40.0 - RADIUS)
    assert [finders.read(frame)[2] for frame in (7, 8, 9)] == pytest.approx([0.5, 0.5, 1.0])


def test_an_old_event_does_not_undo_a_newer_one(
    still: tuple[ObstacleSensors, list[Sensor]],
) -> None:
    finders, sensors = still
    meet(sensors[2], 8, 40.0 - RADIUS)
    meet(sensors[2], 7, 80.0 - RADIUS)
    assert finders.read(8)[2] == pytest.approx(0.5)


@pytest.mark.parametrize("start", [20.0, 150.0, 330.0, 480.0])
def test_they_see_what_training_showed(world: World, start: float) -> None:
    world.env.reset(options={"start": start})
    finders = ObstacleSensors(world, world.vehicle, timeout=1.0)
    frame = world.tick()
    rays = RangeFinders().from_ray_casts(world, world.vehicle.get_transform())
    np.testing.assert_allclose(finders.read(frame), rays, atol=1e-3)
    finders.close()
    assert not any(sensor.alive for sensor in world.sensors)


def test_an_agent_drives_a_lap_by_them(world: World, gateway_url: str) -> None:
    assert EVENT_S > 0  # events come after the tick
    finders = ObstacleSensors(world, world.vehicle)
    with PolicyClient(gateway_url) as client:
        driver = SafeDriver(client, deadline=20.0)
        with CarlaAgent(world, world.vehicle, driver, finders.read) as agent:
            while not world.info.get("lap_times") and world.frame < 1600:
                agent.tick()
    finders.close()
    assert world.info["off_track"] == 0
    assert 30.0 < world.info["lap_times"][0] < 50.0
