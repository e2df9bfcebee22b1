"""The leaderboard agent by itself, and under base classes as both frameworks have them."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import carla
import numpy as np
import pytest

from carlarl_client import leaderboard
from tests.client.small_world import BEARINGS, World

Agent = Callable[..., Any]


@pytest.fixture
def config(gateway_url: str, tmp_path: Path) -> str:
    path = tmp_path / "agent.json"
    path.write_text(json.dumps({"url": gateway_url, "deadline": 20.0}))
    return str(path)


@pytest.fixture
def framework(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Any], ModuleType]]:
    """Install modules of a framework, and load the agent again with them there."""

    def load(name: str, **content: Any) -> ModuleType:
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            module = ModuleType(".".join(parts[:depth]))
            module.__path__ = []
            monkeypatch.setitem(sys.modules, module.__name__, module)
        vars(sys.modules[name]).update(content)
        return importlib.reload(leaderboard)

    yield load
    monkeypatch.undo()
    importlib.reload(leaderboard)


def entry(module: ModuleType) -> Agent:
    """The agent as the frameworks find it."""
    agent: Agent = getattr(module, module.get_entry_point())
    return agent


def sweep(world: World, half: int) -> np.ndarray:
    """Half a turn, as the leaderboard's lidar gives it at each step."""
    x, y, z = leaderboard.MOUNT
    points = world.points(carla.Location(x, y, z), BEARINGS)
    return points[(points[:, 1] >= 0.0) == bool(half)]


def drive(agent: Any, world: World, steps: int, speed: bool) -> list[carla.VehicleControl]:
    """Drive as the frameworks do: sensors, `run_step`, and the control at the next tick."""
    controls = []
    for step in range(steps):
        data: dict[str, Any] = {"LIDAR": (step, sweep(world, step % 2))}
        if speed:
            data["SPEED"] = (step, {"speed": world.env.speed})
        controls.append(agent.run_step(data, step * 0.05))
        world.vehicle.apply_control(controls[-1])
        world.tick()
    return controls


@pytest.fixture
def world() -> World:
    world = World()
    world.settings = carla.WorldSettings(synchronous_mode=True, fixed_delta_seconds=0.05)
    world.env.reset(options={"start": 60.0})
    return world


def test_drives_in_the_leaderboard(framework: Any, config: str, world: World) -> None:
    class Track(Enum):
        SENSORS = "SENSORS"
        MAP = "MAP"

    class AutonomousAgent:
        def __init__(self, host: str, port: int, debug: bool = False) -> None:
            self.address = (host, port)

    module = framework(
        "leaderboard.autoagents.autonomous_agent", AutonomousAgent=AutonomousAgent, Track=Track
    )
    agent = entry(module)("localhost", 2000, False)
    assert isinstance(agent, AutonomousAgent)
    agent.setup(config)
    assert agent.track is Track.SENSORS
    sensors = agent.sensors()
    assert [one["type"] for one in sensors] == ["sensor.lidar.ray_cast", "sensor.speedometer"]
    assert len({one["id"] for one in sensors}) == 2
    assert np.hypot(*[sensors[0][axis] for axis in "xy"]) + abs(sensors[0]["z"]) <= 3.0
    controls = drive(agent, world, 120, speed=True)
    assert all(isinstance(one, carla.VehicleControl) for one in controls)
    assert agent.driver.fallback_steps == 0
    assert world.info["off_track"] == 0
    assert world.info["progress"] > 40.0  # through the first bend
    assert max(abs(one.steer) for one in controls) <= 0.33
    agent.destroy()


def test_drives_in_the_scenario_runner(framework: Any, config: str, world: World) -> None:
    class AutonomousAgent:
        def __init__(self, path_to_conf_file: str) -> None:
            self.setup(path_to_conf_file)

        def setup(self, path_to_conf_file: str) -> None:
            raise NotImplementedError

    provider = SimpleNamespace(get_hero_actor=lambda: world.vehicle)
    framework("srunner.scenariomanager.carla_data_provider", CarlaDataProvider=provider)
    module = framework("srunner.autoagents.autonomous_agent", AutonomousAgent=AutonomousAgent)
    agent = entry(module)(config)
    assert isinstance(agent, AutonomousAgent)
    (lidar,) = agent.sensors()
    needed = [
        "range",
        "rotation_frequency",
        "channels",
        "upper_fov",
        "lower_fov",
        "points_per_second",
        "x",
        "y",
        "z",
    ]
    assert set(needed) <= set(lidar)
    drive(agent, world, 40, speed=False)
    assert agent.driver.fallback_steps == 0
    assert world.info["progress"] > 5.0
    agent.destroy()


def test_is_usable_alone_and_destroyed_before_it_was_set_up() -> None:
    agent = entry(leaderboard)("localhost", 2000)
    agent.destroy()
    agent.setup("")
    assert agent.client.url == "http://127.0.0.1:8080"
    agent.destroy()


def test_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "agent.json"
    path.write_text('{"ulr": "http://127.0.0.1:8080"}')
    with pytest.raises(ValueError, match=r"agent\.json: ulr: choose from url, "):
        entry(leaderboard)().setup(str(path))
