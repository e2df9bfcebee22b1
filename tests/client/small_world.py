"""A world that behaves as CARLA's does, with the example track between two walls and one car.

All values that pass are the `carla` package's own types. What only a simulator can make (a lidar's
turn, a hit of a ray) has the attributes of the real one. Its frame is CARLA's: y and yaw turned
round from those of the track.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import carla
import numpy as np

from examples.track import TrackEnv

MAX_STEER_ANGLE = 70.0  # degrees, of CARLA's usual car
WALL = 1.5  # metres high
EVENT_S = 0.002  # until an obstacle sensor's event arrives
# Degrees at which a lidar has points: finely ahead, where somebody looks, and coarsely behind.
BEARINGS = np.concatenate((np.arange(-72.0, 72.1, 0.5), np.arange(80.0, 280.1, 10.0)))


@dataclass
class Turn:
    """As `carla.LidarMeasurement`."""

    frame: int
    raw_data: bytes


@dataclass
class Met:
    """As `carla.ObstacleDetectionEvent`."""

    frame: int
    distance: float


@dataclass
class Sensor:
    """As `carla.Sensor`."""

    kind: str
    mount: carla.Transform
    attributes: dict[str, str]
    callback: Callable[[Any], None] | None = None
    alive: bool = True

    def listen(self, callback: Callable[[Any], None]) -> None:
        self.callback = callback

    def stop(self) -> None:
        self.callback = None

    def destroy(self) -> None:
        self.alive = False


@dataclass
class Blueprint:
    """As `carla.ActorBlueprint`, which takes strings alone."""

    kind: str
    attributes: dict[str, str] = field(default_factory=dict)

    def set_attribute(self, name: str, value: str) -> None:
        assert isinstance(value, str)
        self.attributes[name] = value


class Vehicle:
    """As `carla.Vehicle`: a control counts from the next tick on."""

    def __init__(self, env: TrackEnv) -> None:
        self.env = env
        self.control = carla.VehicleControl()
        self.alive = True

    def get_transform(self) -> carla.Transform:
        place = carla.Location(self.env.x, -self.env.y, 0.0)
        return carla.Transform(place, carla.Rotation(yaw=-math.degrees(self.env.heading)))

    def get_velocity(self) -> carla.Vector3D:
        heading, speed = self.env.heading, self.env.speed
        return carla.Vector3D(speed * math.cos(heading), -speed * math.sin(heading), 0.0)

    def get_control(self) -> carla.VehicleControl:
        return self.control

    def apply_control(self, control: carla.VehicleControl) -> None:
        assert isinstance(control, carla.VehicleControl)
        if not self.alive:
            raise RuntimeError("trying to operate on a destroyed actor")
        self.control = control

    def destroy(self) -> None:
        self.alive = False

    def get_physics_control(self) -> carla.VehiclePhysicsControl:
        wheel = carla.WheelPhysicsControl(max_steer_angle=MAX_STEER_ANGLE)
        return carla.VehiclePhysicsControl(wheels=[wheel] * 4)


class World:
    """As `carla.World` in synchronous mode: nothing moves but by `tick`."""

    def __init__(self) -> None:
        self.env = TrackEnv(put_back=True, max_steps=None)
        self.env.reset(options={"start": 0.0})
        self.vehicle = Vehicle(self.env)
        self.settings = carla.WorldSettings()
        self.sensors: list[Sensor] = []
        self.info: dict[str, Any] = {}
        self.frame = 0

    def get_settings(self) -> carla.WorldSettings:
        now = self.settings
        return carla.WorldSettings(
            synchronous_mode=now.synchronous_mode, fixed_delta_seconds=now.fixed_delta_seconds or 0
        )

    def apply_settings(self, settings: carla.WorldSettings) -> None:
        self.settings = settings

    def get_blueprint_library(self) -> Any:
        return SimpleNamespace(find=Blueprint)

    def spawn_actor(self, blueprint: Blueprint, transform: carla.Transform, attach_to: Any) -> Any:
        assert attach_to is self.vehicle
        self.sensors.append(Sensor(blueprint.kind, transform, blueprint.attributes))
        return self.sensors[-1]

    def tick(self) -> int:
        """Drive on by one step, let the sensors look, and give the frame's number."""
        assert self.settings.synchronous_mode
        control = self.vehicle.control
        wheel = control.steer * math.radians(MAX_STEER_ANGLE)
        action = np.array([control.throttle, control.brake, wheel / 0.4], np.float32)
        *_, self.info = self.env.step(action)
        self.frame += 1
        for sensor in self.sensors:
            if sensor.callback is not None:
                LOOKS[sensor.kind](self, sensor, sensor.callback)
        return self.frame

    def turn(self, lidar: Sensor, callback: Callable[[Turn], None]) -> None:
        """Let a lidar see all around."""
        points = self.points(lidar.mount.location, BEARINGS)
        callback(Turn(self.frame, points.tobytes()))

    def sweep(self, sensor: Sensor, callback: Callable[[Met], None]) -> None:
        """Let an obstacle sensor send its ball; it is silent where that meets nothing.

        An event comes in a thread of its own, when the tick is over.
        """
        assert sensor.attributes["only_dynamics"] == "false"
        radius = float(sensor.attributes["hit_radius"])
        assert sensor.mount.location.z > radius
        angle = self.env.heading - math.radians(sensor.mount.rotation.yaw)
        wall = self.env.track.ranges(self.env.x, self.env.y, np.array([angle]), reach=1000.0)[0]
        distance = max(float(wall) - radius, 0.0)
        if distance <= float(sensor.attributes["distance"]):
            threading.Timer(EVENT_S, callback, [Met(self.frame, distance)]).start()

    def points(self, mount: carla.Location, bearings: np.ndarray) -> np.ndarray:
        """What a lidar sees, float32 of shape (n, 4): both walls, the road and its own car."""
        env = self.env
        angles = env.heading + np.radians(bearings)
        # From the mount, whose place counts, as do the walls at two heights.
        x = env.x + mount.x * math.cos(env.heading) + mount.y * math.sin(env.heading)
        y = env.y + mount.x * math.sin(env.heading) - mount.y * math.cos(env.heading)
        walls = env.track.ranges(x, y, angles, reach=1000.0)
        rings = [(walls, 0.6), (walls, WALL), (np.minimum(walls, 6.0), 0.0), (walls * 0 + 0.5, 1.2)]
        return np.concatenate(
            [
                np.column_stack(
                    (
                        distance * np.cos(np.radians(bearings)),
                        -distance * np.sin(np.radians(bearings)),
                        np.full(len(bearings), height - mount.z),
                        np.ones(len(bearings)),
                    )
                )[distance <= 85.0]
                for distance, height in rings
            ]
        ).astype(np.float32)

    def cast_ray(self, start: carla.Location, end: carla.Location) -> list[Any]:
        """As `carla.World.cast_ray`: the hits between two places, nearest first."""
        angle = math.atan2(-(end.y - start.y), end.x - start.x)
        reach = math.hypot(end.x - start.x, end.y - start.y)
        found = self.env.track.ranges(start.x, -start.y, np.array([angle]), reach=1000.0)[0]
        hits = [(0.4, carla.CityObjectLabel.RoadLines), (found, carla.CityObjectLabel.Walls)]
        return [
            SimpleNamespace(
                location=carla.Location(
                    start.x + far * math.cos(angle), start.y - far * math.sin(angle), start.z
                ),
                label=label,
            )
            for far, label in hits
            if far <= reach
        ]


LOOKS = {"sensor.lidar.ray_cast": World.turn, "sensor.other.obstacle": World.sweep}


def straight_road(half_width: float = 5.0) -> carla.Map:
    """A real map: 300 m along x, with a lane of so many metres to either side."""
    lane = (
        '<lane id="{}" type="driving" level="false"><link/>'
        f'<width sOffset="0" a="{half_width}" b="0" c="0" d="0"/></lane>'
    )
    return carla.Map(
        "road",
        '<?xml version="1.0" standalone="yes"?><OpenDRIVE>'
        '<header revMajor="1" revMinor="4" name="road" version="1" north="0" south="0" east="0" '
        'west="0"><geoReference>+proj=tmerc +lat_0=0 +lon_0=0</geoReference></header>'
        '<road name="road" length="300" id="1" junction="-1"><link/><type s="0" type="town"/>'
        '<planView><geometry s="0" x="0" y="0" hdg="0" length="300"><line/></geometry></planView>'
        '<elevationProfile/><lateralProfile/><lanes><laneSection s="0">'
        f"<left>{lane.format(1)}</left>"
        '<center><lane id="0" type="none" level="false"><link/></lane></center>'
        f"<right>{lane.format(-1)}</right></laneSection></lanes></road></OpenDRIVE>",
    )
