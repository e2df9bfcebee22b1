"""A Gymnasium environment: a kinematic bicycle with five range finders on a closed track."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DT = 0.05  # s, one step
MAX_SPEED = 200.0 / 3.6  # m/s, the top of the observation space
THROTTLE_ACCELERATION = 6.0  # m/s^2 at full throttle
BRAKE_DECELERATION = 9.0  # m/s^2 at full brake
ROLLING_RESISTANCE = 0.2  # m/s^2
DRAG = 0.0018  # 1/m: deceleration is DRAG * speed^2
GRIP = 8.0  # m/s^2, the most lateral acceleration that the tyres hold
WHEELBASE = 2.6  # m
REAR_AXLE = 1.3  # m from the centre of gravity back to the rear axle
CAR_WIDTH = 1.8  # m
MAX_WHEEL_ANGLE = 0.4  # rad, of the front wheels at steering -1 or 1
STEERING_RATE = 4.0  # 1/s, so that centre to full lock takes 0.25 s
SENSOR_REACH = 80.0  # m, a sensor's reading of 1
SENSOR_ANGLES = (60.0, 30.0, 0.0, -30.0, -60.0)  # degrees from straight ahead, left positive

OFF_TRACK_PENALTY = 30.0  # in metres of progress, as are the next two
STEERING_PENALTY = 0.2  # times (commanded - actual steering)^2
PEDALS_PENALTY = 0.2  # times throttle * brake

# Centre line, counter-clockwise, metres: main straight, a long fast left, a fast chicane, a left
# that opens, and two hairpins.
CONTROL_POINTS = (
    *((30, -2), (60, -2), (95, -2), (135, 2), (172, 18), (186, 48), (168, 77), (132, 80)),
    *((108, 64), (84, 57), (60, 68), (34, 88), (0, 96), (-36, 94), (-57, 76), (-46, 57)),
    *((-20, 50), (2, 49), (11.2, 45.2), (15, 36), (11.2, 26.8), (2, 23), (-26, 23)),
    *((-34.8, 19.3), (-38.5, 10.5), (-34.8, 1.7), (-26, -2), (0, -2)),
)


class Track:
    """A closed track of constant width around a periodic cubic spline.

    Attributes:
        length: of the centre line, in metres.
        width: edge to edge, in metres.
        centre, left, right: centre line and edges, shape (n + 1, 2), metres; the last point is the
            first again, and row i of all three belongs to the distance `distance[i]`.
        distance: along the centre line, shape (n + 1,), 0 to `length` metres.
        heading: of the centre line, shape (n + 1,), radians counter-clockwise from +x, unwrapped.
        curvature: of the centre line, shape (n + 1,), 1/m, positive in a left bend.
    """

    def __init__(
        self,
        control_points: tuple[tuple[float, float], ...] = CONTROL_POINTS,
        width: float = 10.0,
        spacing: float = 1.5,
    ) -> None:
        """Lay the track; `width` and `spacing`, the distance between points, are in metres."""
        self.width = width
        curve = _periodic_spline(np.asarray(control_points, dtype=np.float64))
        along = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(curve, axis=0).T))))
        self.length = float(along[-1])
        count = round(self.length / spacing)
        self.distance = np.linspace(0.0, self.length, count + 1)
        self.centre = np.column_stack([np.interp(self.distance, along, axis) for axis in curve.T])
        chord = np.roll(self.centre[:-1], -1, axis=0) - np.roll(self.centre[:-1], 1, axis=0)
        heading = np.unwrap(np.arctan2(chord[:, 1], chord[:, 0]))
        turn = 2.0 * math.pi * round((heading[-1] - heading[0]) / (2.0 * math.pi))
        self.heading = np.append(heading, heading[0] + turn)
        before, after = np.append(heading[-1] - turn, heading[:-1]), self.heading[1:]
        curvature = (after - before) / (2.0 * self.length / count)
        self.curvature = np.append(curvature, curvature[0])
        normal = np.column_stack((-np.sin(self.heading), np.cos(self.heading)))
        self.left = self.centre + width / 2.0 * normal
        self.right = self.centre - width / 2.0 * normal
        self._edges = np.stack((self.left, self.right))

    def locate(self, x: float, y: float) -> tuple[float, float]:
        """Return distance along and offset from the centre line (left positive) in metres."""
        delta = self.centre[:-1] - (x, y)
        i = int(np.argmin(np.einsum("ij,ij->i", delta, delta)))
        dx, dy = -float(delta[i, 0]), -float(delta[i, 1])
        cos, sin = math.cos(self.heading[i]), math.sin(self.heading[i])
        offset = dy * cos - dx * sin
        # On the inside of a bend a metre driven is more than a metre of centre line.
        along = (dx * cos + dy * sin) / (1.0 - float(self.curvature[i]) * offset)
        return (float(self.distance[i]) + along) % self.length, offset

    def pose(self, distance: float) -> tuple[float, float, float]:
        """Return x and y in metres and the heading in radians of a point on the centre line."""
        at = distance % self.length
        columns = (self.centre[:, 0], self.centre[:, 1], self.heading)
        x, y, heading = (float(np.interp(at, self.distance, column)) for column in columns)
        return x, y, heading

    def ranges(self, x: float, y: float, angles: Floats, reach: float = SENSOR_REACH) -> Floats:
        """Return how far each ray goes before it meets an edge, in metres, at most `reach`.

        Args:
            x, y: where the rays start, metres.
            angles: directions, shape (n,), radians counter-clockwise from +x.
        """
        cos, sin = np.cos(angles), np.sin(angles)
        # Edge points in each ray's own frame: (2, points, 2n) = ahead along it, then left of it.
        frame = np.concatenate((np.stack((cos, sin)), np.stack((-sin, cos))), axis=1)
        points = (self._edges - (x, y)) @ frame
        ahead, left = points[..., : len(angles)], points[..., len(angles) :]
        side = left > 0.0
        edge, segment, ray = np.nonzero(side[:, 1:] != side[:, :-1])
        a, b = (edge, segment, ray), (edge, segment + 1, ray)
        fraction = left[a] / (left[a] - left[b])
        hit = ahead[a] + fraction * (ahead[b] - ahead[a])
        result = np.full(len(angles), reach)
        in_front = hit >= 0.0
        np.minimum.at(result, ray[in_front], hit[in_front])
        return result


class TrackEnv(gymnasium.Env[Any, NDArray[np.float32]]):
    """A car that is to drive fast around a `Track` without leaving it, at 20 steps a second.

    Observation, float32 of shape (7,): speed (0 to 200 km/h), steering (-1 full left to 1 full
    right), then five range finders from left to right, each 0 to 1 of `SENSOR_REACH`.

    Action, float32 of shape (3,): throttle (0 to 1), brake (0 to 1), steer (-1 to 1, as above).
    Values outside are taken as the nearest bound.

    Reward: metres of progress, less small penalties for hasty steering and for braking against the
    throttle, less `OFF_TRACK_PENALTY` for leaving the track, which ends the episode.

    Args:
        put_back: instead of ending the episode, put a car that left the track back on the centre
            line at standstill and go on.
        max_steps: truncate the episode after so many steps; None never does.
        dt: seconds of a step, of which the 20 a second above are the default.
    """

    metadata = {"render_modes": [], "render_fps": round(1 / DT)}

    def __init__(
        self, *, put_back: bool = False, max_steps: int | None = 1000, dt: float = DT
    ) -> None:
        """Build the track; see the class for the arguments."""
        self.track = Track()
        self.dt = dt
        self.put_back = put_back
        self.max_steps = max_steps
        self._low = np.array([0.0, -1.0, *[0.0] * 5], dtype=np.float32)
        self._high = np.array([200.0, 1.0, *[1.0] * 5], dtype=np.float32)
        self.observation_space = spaces.Box(self._low, self._high)
        self.action_space = spaces.Box(np.array([0, 0, -1], np.float32), np.ones(3, np.float32))
        self._angles = np.radians(SENSOR_ANGLES)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Place the car at a random point, rolling, a little off the centre line and its heading.

        With `options={"start": metres}` it stands on the centre line that far from the start line.
        """
        super().reset(seed=seed)
        self.speed = 0.0
        self.steering = 0.0
        if options is not None and "start" in options:
            self.x, self.y, self.heading = self.track.pose(float(options["start"]))
        else:
            uniform = self.np_random.uniform
            self.x, self.y, self.heading = self.track.pose(uniform(0.0, self.track.length))
            offset = uniform(-2.0, 2.0)
            self.x -= offset * math.sin(self.heading)
            self.y += offset * math.cos(self.heading)
            self.heading += uniform(-0.15, 0.15)
            self.speed = uniform(0.0, 10.0)
        self._distance, _ = self.track.locate(self.x, self.y)
        self._steps = 0
        self._progress = 0.0
        self._off_track = 0
        self._lap_ends = [0.0]
        return self._observation(), self._info()

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Drive for one step; see the class for observation, action and reward."""
        throttle, brake = (min(max(float(pedal), 0.0), 1.0) for pedal in action[:2])
        steer = min(max(float(action[2]), -1.0), 1.0)
        haste = steer - self.steering
        self._drive(throttle, brake, haste)
        self._steps += 1

        length = self.track.length
        distance, offset = self.track.locate(self.x, self.y)
        gained = (distance - self._distance + length / 2.0) % length - length / 2.0
        self._distance = distance
        self._progress += gained
        missing = len(self._lap_ends) * length - self._progress
        if missing <= 0.0:  # the lap ended within this step
            self._lap_ends.append((self._steps + missing / gained) * self.dt)

        reward = gained - STEERING_PENALTY * haste**2 - PEDALS_PENALTY * throttle * brake
        left_track = abs(offset) > (self.track.width - CAR_WIDTH) / 2.0
        if left_track:
            self._off_track += 1
            reward -= OFF_TRACK_PENALTY
            if self.put_back:
                self.x, self.y, self.heading = self.track.pose(distance)
                self.speed = self.steering = 0.0
        truncated = self.max_steps is not None and self._steps >= self.max_steps
        terminated = left_track and not self.put_back
        return self._observation(), reward, terminated, truncated, self._info()

    def _drive(self, throttle: float, brake: float, haste: float) -> None:
        """Move the car: the kinematic bicycle about its centre of gravity, held to the grip.

        J. Kong, M. Pfeiffer, G. Schildbach and F. Borrelli, "Kinematic and dynamic vehicle models
        for autonomous driving control design", IEEE Intelligent Vehicles Symposium 2015, eq. 2.
        """
        acceleration = (
            throttle * THROTTLE_ACCELERATION
            - brake * BRAKE_DECELERATION
            - ROLLING_RESISTANCE
            - DRAG * self.speed**2
        )
        self.speed = min(max(self.speed + acceleration * self.dt, 0.0), MAX_SPEED)
        self.steering += min(max(haste, -STEERING_RATE * self.dt), STEERING_RATE * self.dt)
        wheel_angle = -self.steering * MAX_WHEEL_ANGLE  # counter-clockwise, so left, is positive
        slip = math.atan(REAR_AXLE / WHEELBASE * math.tan(wheel_angle))
        curvature = math.sin(slip) / REAR_AXLE
        if abs(curvature) * self.speed**2 > GRIP:  # the front tyres slide and the car runs wide
            curvature = math.copysign(GRIP / self.speed**2, curvature)
            slip = math.asin(curvature * REAR_AXLE)
        self.x += self.speed * math.cos(self.heading + slip) * self.dt
        self.y += self.speed * math.sin(self.heading + slip) * self.dt
        self.heading += self.speed * curvature * self.dt

    def _observation(self) -> Any:
        ranges = self.track.ranges(self.x, self.y, self.heading + self._angles)
        observation = np.empty(7, dtype=np.float32)
        observation[:2] = self.speed * 3.6, self.steering
        observation[2:] = ranges / SENSOR_REACH
        # Rounding to float32 may have passed a bound.
        return observation.clip(self._low, self._high)

    def _info(self) -> dict[str, Any]:
        return {
            "progress": self._progress,  # m since the reset
            "laps": self._progress / self.track.length,
            "off_track": self._off_track,  # times since the reset
            "lap_times": tuple(np.diff(self._lap_ends).tolist()),  # s
            "x": self.x,  # m
            "y": self.y,  # m
            "speed": self.speed * 3.6,  # km/h
        }


def _periodic_spline(points: Floats, samples: int = 100) -> Floats:
    """Return the closed cubic spline through `points`, shape (n, 2), as (n * samples + 1, 2)."""
    following = np.roll(points, -1, axis=0)
    step = np.hypot(*(following - points).T)
    index = np.arange(len(points))
    system = np.diag(2.0 * (step + np.roll(step, 1)))
    system[index, (index + 1) % len(points)] = step
    system[index, index - 1] = np.roll(step, 1)
    slope = (following - points) / step[:, None]
    bend = np.linalg.solve(system, 6.0 * (slope - np.roll(slope, 1, axis=0)))
    t = np.linspace(0.0, 1.0, samples, endpoint=False)[None, :, None]
    curve = (
        (1.0 - t) * points[:, None]
        + t * following[:, None]
        + (step[:, None, None] ** 2 / 6.0)
        * (
            ((1.0 - t) ** 3 - (1.0 - t)) * bend[:, None]
            + (t**3 - t) * np.roll(bend, -1, axis=0)[:, None]
        )
    ).reshape(-1, 2)
    return np.concatenate((curve, curve[:1]))


# gymnasium.make("examples.track:CarlaRL/Track-v0")
gymnasium.register(id="CarlaRL/Track-v0", entry_point="examples.track:TrackEnv")
