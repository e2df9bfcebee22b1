"""CARLA: what the car senses as an observation, the action as a control, and an agent.

Bearings are in degrees from straight ahead, left positive. CARLA's own frames are left-handed: x
ahead, y to the right, z up, yaw clockwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Iterable

from carlarl_client.types import Action, Observation

if TYPE_CHECKING:
    from carlarl_client.fallback import SafeDriver, Step
    from carlarl_client.latency import LatencyInTheLoop

BEARINGS = (60.0, 30.0, 0.0, -30.0, -60.0)
MAX_SPEED_KMH = 200.0
ROAD_LABELS = ("Roads", "RoadLines", "Ground", "Terrain", "NONE")


@dataclass(frozen=True)
class RangeFinders:
    """Turns what CARLA gives into readings from left to right, each 0 to 1 of `reach`.

    They start at the vehicle's origin, as those with which the example policies were trained.

    Attributes:
        bearings: of each, left to right.
        reach: metres; nothing within it reads 1.
        half_width: degrees to either side of its bearing that a range finder sees of a point cloud.
        lowest, highest: metres above the road between which a point is an obstacle.
        body: half length and half width of the own car in metres; points within are not seen.
    """

    bearings: tuple[float, ...] = BEARINGS
    reach: float = 80.0
    half_width: float = 1.0
    lowest: float = 0.3
    highest: float = 2.5
    body: tuple[float, float] = (2.6, 1.1)

    def from_points(self, points: Any, mount: tuple[float, float, float]) -> list[float]:
        """Read a lidar's points.

        Args:
            points: shape (n, 3 or more): x, y and z in the lidar's own frame, metres.
            mount: where the lidar sits, x, y and z in the vehicle's frame, not turned.
        """
        import numpy as np

        cloud = np.asarray(points, dtype=np.float64)[:, :3] + mount
        x, y, z = cloud.T
        length, width = self.body
        seen = (z >= self.lowest) & (z <= self.highest) & ((abs(x) > length) | (abs(y) > width))
        x, y = x[seen], y[seen]
        bearing, distance = np.degrees(np.arctan2(-y, x)), np.hypot(x, y)
        return [
            min(
                float(distance[abs(bearing - middle) <= self.half_width].min(initial=math.inf))
                / self.reach,
                1.0,
            )
            for middle in self.bearings
        ]

    def from_ray_casts(self, world: Any, transform: Any, height: float = 0.6) -> list[float]:
        """Cast a ray of a `carla.World` from the vehicle's transform for each range finder.

        A hit is the first thing beyond the own car that is no surface to drive on.
        """
        import carla

        readings = []
        for bearing in self.bearings:
            ahead, right = _direction(bearing)
            ends = [
                transform.transform(carla.Location(distance * ahead, distance * right, height))
                for distance in (self._own_car(bearing), self.reach)
            ]
            start = transform.transform(carla.Location(0.0, 0.0, height))
            hits = (
                start.distance(hit.location)
                for hit in world.cast_ray(*ends)
                if hit.label.name not in ROAD_LABELS
            )
            readings.append(min(min(hits, default=math.inf) / self.reach, 1.0))
        return readings

    def from_map(self, carla_map: Any, transform: Any, step: float = 1.0) -> list[float]:
        """Measure how far a `carla.Map`'s lanes reach, in steps of metres that are then halved.

        This is what the example policies were trained on: a range finder ends at the road's edge.
        """
        import carla

        def on_lane(distance: float, ahead: float, right: float) -> bool:
            there = transform.transform(carla.Location(distance * ahead, distance * right, 0.0))
            lane = carla_map.get_waypoint(
                there, project_to_road=False, lane_type=carla.LaneType.Driving
            )
            return lane is not None

        def on_road(distance: float, ahead: float, right: float) -> bool:
            # Just where two lanes meet there is neither.
            return on_lane(distance, ahead, right) or on_lane(distance + 0.05, ahead, right)

        readings = []
        for bearing in self.bearings:
            direction = _direction(bearing)
            near = 0.0
            while near < self.reach and on_road(near + step, *direction):
                near += step
            far = near + step
            while far - near > 0.05:
                middle = (near + far) / 2
                if on_road(middle, *direction):
                    near = middle
                else:
                    far = middle
            readings.append(min(near / self.reach, 1.0))
        return readings

    def _own_car(self, bearing: float) -> float:
        """Return the metres from the origin to the side of the own car."""
        ahead, right = _direction(bearing)
        length, width = self.body
        return min(length / max(abs(ahead), 1e-9), width / max(abs(right), 1e-9))


def _direction(bearing: float) -> tuple[float, float]:
    """Return a bearing's part ahead and its part to the right."""
    return math.cos(math.radians(bearing)), -math.sin(math.radians(bearing))


def speed_kmh(velocity: Any) -> float:
    """Return a velocity vector's length as km/h, at most what an observation may hold."""
    metres = math.sqrt(velocity.x**2 + velocity.y**2 + velocity.z**2)
    return min(metres * 3.6, MAX_SPEED_KMH)


@dataclass
class Steering:
    """The steering as the example policies know it: a wheel that moves at a limited rate.

    Attributes:
        rate: 1/s; at 4 it takes 0.25 s from the centre to full lock.
        scale: CARLA's steer at full lock: the wheel angle of training by that of the vehicle. None
            until it is known.
        position: -1 (full left) to 1, what the next observation holds.
    """

    rate: float = 4.0
    scale: float | None = None
    position: float = 0.0

    def turn(self, steer: float, seconds: float) -> float:
        """Move towards `steer` for so long; give CARLA's steer."""
        most = self.rate * seconds
        self.position += min(max(steer - self.position, -most), most)
        self.position = min(max(self.position, -1.0), 1.0)
        return self.position * (1.0 if self.scale is None else self.scale)

    @staticmethod
    def scale_of(vehicle: Any, wheel_angle: float = 0.4) -> float:
        """Return the scale for a `carla.Vehicle`; `wheel_angle` is the full lock in training."""
        most = max(wheel.max_steer_angle for wheel in vehicle.get_physics_control().wheels)
        return min(wheel_angle / math.radians(most), 1.0) if most > 0 else 1.0


def control(action: Action, steer: float) -> Any:
    """Make a `carla.VehicleControl` of an action's pedals and switches and CARLA's steer."""
    import carla

    return carla.VehicleControl(
        throttle=action.throttle,
        brake=action.brake,
        steer=steer,
        hand_brake=action.hand_brake,
        reverse=action.reverse,
    )


class Lidar:
    """A lidar on a vehicle in a synchronous world: one whole turn with every tick."""

    def __init__(
        self,
        world: Any,
        vehicle: Any,
        finders: RangeFinders | None = None,
        mount: tuple[float, float, float] = (0.0, 0.0, 2.4),
        step_s: float = 0.05,
        timeout: float = 10.0,
    ) -> None:
        """Spawn it.

        Args:
            world, vehicle: a `carla.World` and a `carla.Vehicle` of it.
            finders: what is made of its points; `RangeFinders()` where absent.
            mount: x, y and z in the vehicle's frame, metres.
            step_s: simulated seconds of a tick, `fixed_delta_seconds`.
            timeout: real seconds that `read` waits for a turn.
        """
        import queue

        import carla

        self._finders = finders or RangeFinders()
        self._mount = mount
        self._timeout = timeout
        self._turns: queue.Queue[Any] = queue.Queue()
        blueprint = world.get_blueprint_library().find("sensor.lidar.ray_cast")
        for name, value in {
            "range": self._finders.reach + 5.0,
            "channels": 64,
            "upper_fov": 2.0,
            "lower_fov": -30.0,
            "points_per_second": round(64 * 1000 / step_s),
            "rotation_frequency": 1.0 / step_s,
            "dropoff_general_rate": 0.0,
        }.items():
            blueprint.set_attribute(name, str(value))
        place = carla.Transform(carla.Location(*mount))
        self._sensor = world.spawn_actor(blueprint, place, attach_to=vehicle)
        self._sensor.listen(self._turns.put)

    def read(self, frame: int) -> list[float]:
        """Return the readings of the tick `frame`. Raises queue.Empty where it does not come."""
        import numpy as np

        while True:
            turn = self._turns.get(timeout=self._timeout)
            if turn.frame >= frame:
                points = np.frombuffer(turn.raw_data, dtype=np.float32).reshape(-1, 4)
                return self._finders.from_points(points, self._mount)

    def close(self) -> None:
        """Take it off the vehicle."""
        self._sensor.stop()
        self._sensor.destroy()


class CarlaAgent:
    """Drives one vehicle of a CARLA world in synchronous mode.

    The `with` block is an episode. Within it the world is synchronous; after it, it is as it was,
    and the vehicle brakes.
    """

    def __init__(
        self,
        world: Any,
        vehicle: Any,
        driver: SafeDriver,
        sense: Callable[[int], Iterable[float]],
        *,
        latency: LatencyInTheLoop | None = None,
        steering: Steering | None = None,
        step_s: float = 0.05,
    ) -> None:
        """Take what drives what.

        Args:
            world: a `carla.World`.
            vehicle: a `carla.Vehicle` of it.
            driver: asks the service, and has a fallback.
            sense: gives the range finders' readings of the tick with this frame number, such as
                `Lidar(…).read` or `lambda _: finders.from_map(map, vehicle.get_transform())`.
            latency: charges each answer its time, for a simulation that waits for it.
            steering: how a steer becomes CARLA's; measured at the vehicle where absent.
            step_s: simulated seconds of a tick, `fixed_delta_seconds`.
        """
        self._world = world
        self._vehicle = vehicle
        self._driver = driver
        self._sense = sense
        self._latency = latency
        self._steering = steering or Steering(scale=Steering.scale_of(vehicle))
        self._step_s = step_s
        self._before: Any = None

    def __enter__(self) -> CarlaAgent:
        """Start an episode, and make the world synchronous."""
        self._driver.reset()
        self._before = self._world.get_settings()
        settings = self._world.get_settings()
        settings.synchronous_mode = True
        settings.fixed_delta_seconds = self._step_s
        self._world.apply_settings(settings)
        return self

    def __exit__(self, *_: object) -> None:
        """Brake, and make the world as it was, also where the vehicle is gone."""
        try:
            self._vehicle.apply_control(control(Action(0.0, 1.0, 0.0), 0.0))
        finally:
            self._world.apply_settings(self._before)

    def observe(self, frame: int) -> Observation:
        """Return what the car perceives after the tick `frame`."""
        speed = speed_kmh(self._vehicle.get_velocity())
        return Observation(speed, self._steering.position, list(self._sense(frame)))

    def tick(self) -> Step | None:
        """Let the world take one step, and apply the action for what is seen then.

        Returns the step of the driver; None where the answer before is still being charged.
        """
        frame = self._world.tick()
        asked: list[Step] = []

        def ask() -> tuple[Action, float]:
            asked.append(self._driver.step(self.observe(frame)))
            return asked[0].action, asked[0].latency_ms

        action = ask()[0] if self._latency is None else self._latency.step(ask)
        steer = self._steering.turn(action.steer, self._step_s)
        self._vehicle.apply_control(control(action, steer))
        return asked[0] if asked else None
