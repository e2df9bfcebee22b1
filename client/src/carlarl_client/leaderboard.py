"""An agent for CARLA's public leaderboard and for its scenario runner.

Both load a file by its path, which must not lie in this package's folder: give them one of your own
with `from carlarl_client.leaderboard import CarlaRLAgent, get_entry_point`.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any

from carlarl_client.carla import MAX_SPEED_KMH, RangeFinders, Steering, control, speed_kmh
from carlarl_client.client import PolicyClient
from carlarl_client.fallback import Fallback, SafeDriver
from carlarl_client.types import Observation

MOUNT = (0.0, 0.0, 2.4)
"""Metres from the vehicle's origin: x, y and z of the lidar."""

DEFAULTS: dict[str, Any] = {
    "url": "http://127.0.0.1:8080",
    "api_key": None,
    "version": None,
    "deadline": 0.05,
    "hold_steps": 4,
    "brake": 0.5,
    "forget_steps": None,
    "steer_scale": 0.33,
}


def get_entry_point() -> str:
    """Name the class of the agent."""
    return "CarlaRLAgent"


class _Alone:
    """In the place of either framework's base class where neither can be imported."""

    def __init__(self, *_: Any) -> None:
        """Take what the frameworks give."""


def _base() -> tuple[Any, Any]:
    """Return the framework's base class, and the leaderboard's tracks."""
    try:
        from leaderboard.autoagents.autonomous_agent import AutonomousAgent, Track
    except ImportError:
        pass
    else:
        return AutonomousAgent, Track
    try:
        from srunner.autoagents.autonomous_agent import AutonomousAgent
    except ImportError:
        return _Alone, None
    return AutonomousAgent, None


_Base, _Track = _base()


class CarlaRLAgent(_Base):  # type: ignore[misc, valid-type]
    """Drives by lidar and speed, asking a CarlaRL service at every step.

    The configuration is a JSON file with any of `url`, `api_key`, `version`, `deadline` (seconds
    for a step's answer), `hold_steps`, `brake` and `forget_steps` (see `Fallback`), and
    `steer_scale` (CARLA's steer at the policy's full lock; 0.33 is 0.4 rad of a wheel that turns by
    70 degrees).
    """

    def setup(self, path_to_conf_file: str) -> None:
        """Read the configuration, and start an episode, as each route is set up by itself.

        Raises ValueError for a name that is none of the above.
        """
        given = {}
        if path_to_conf_file:
            with open(path_to_conf_file, encoding="utf-8") as file:
                given = json.load(file)
        if unknown := sorted(set(given) - set(DEFAULTS)):
            raise ValueError(
                f"{path_to_conf_file}: {', '.join(unknown)}: choose from {', '.join(DEFAULTS)}"
            )
        config = {**DEFAULTS, **given}
        if _Track is not None:
            self.track = _Track.SENSORS
        self.client = PolicyClient(config["url"], api_key=config["api_key"])
        self.driver = SafeDriver(
            self.client,
            deadline=config["deadline"],
            fallback=Fallback(config["hold_steps"], config["brake"], config["forget_steps"]),
            version=config["version"],
        )
        self._finders = RangeFinders()
        self._steering = Steering(scale=config["steer_scale"])
        # The leaderboard's lidar turns ten times a second: a step brings half a turn.
        self._turns: deque[Any] = deque(maxlen=2)
        self._before: float | None = None

    def sensors(self) -> list[dict[str, Any]]:
        """Ask for a lidar and, of the leaderboard, which alone has one, for a speedometer.

        The lidar's attributes are for the scenario runner; the leaderboard has its own.
        """
        x, y, z = MOUNT
        place = {"x": x, "y": y, "z": z, "roll": 0.0, "pitch": 0.0, "yaw": 0.0}
        lidar = {
            "type": "sensor.lidar.ray_cast",
            "id": "LIDAR",
            **place,
            "range": 85,
            "rotation_frequency": 20,
            "channels": 64,
            "upper_fov": 10,
            "lower_fov": -30,
            "points_per_second": 1200000,
        }
        speedometer = {"type": "sensor.speedometer", "id": "SPEED", "reading_frequency": 20}
        return [lidar, speedometer] if _Track is not None else [lidar]

    def run_step(self, input_data: dict[str, tuple[int, Any]], timestamp: float) -> Any:
        """Return the `carla.VehicleControl` for what was sensed; `timestamp` is in simulated s."""
        import numpy as np

        self._turns.append(input_data["LIDAR"][1])
        observation = Observation(
            speed=self._speed_kmh(input_data),
            steering=self._steering.position,
            sensors=self._finders.from_points(np.concatenate(list(self._turns)), MOUNT),
        )
        action = self.driver.step(observation).action
        seconds = 0.05 if self._before is None else max(timestamp - self._before, 0.0)
        self._before = timestamp
        return control(action, self._steering.turn(action.steer, seconds))

    def destroy(self) -> None:
        """Close the connections, if it was set up."""
        if hasattr(self, "client"):
            self.client.close()

    @staticmethod
    def _speed_kmh(input_data: dict[str, tuple[int, Any]]) -> float:
        if "SPEED" in input_data:
            metres = float(input_data["SPEED"][1]["speed"])
            return min(max(metres * 3.6, 0.0), MAX_SPEED_KMH)
        from srunner.scenariomanager.carla_data_provider import CarlaDataProvider

        return speed_kmh(CarlaDataProvider.get_hero_actor().get_velocity())
