"""Drive a car of a running CARLA: `python client/examples/drive_carla.py --sense map`."""

from __future__ import annotations

import argparse
from typing import Any

from carlarl_client import Fallback, PolicyClient, SafeDriver
from carlarl_client.carla import CarlaAgent, Lidar, RangeFinders
from carlarl_client.obstacles import ObstacleSensors


def drive(
    world: Any,
    vehicle: Any,
    url: str,
    seconds: float,
    sense: str = "lidar",
    deadline: float = 0.05,
) -> SafeDriver:
    """Drive `vehicle` for so many simulated seconds; give the driver, which counted.

    An answer may take `deadline` real seconds.
    """
    finders = RangeFinders()
    sensors: Lidar | ObstacleSensors | None = None
    if sense == "map":
        town = world.get_map()

        def read(frame: int) -> list[float]:
            return finders.from_map(town, vehicle.get_transform())
    else:
        kind = Lidar if sense == "lidar" else ObstacleSensors
        sensors = kind(world, vehicle, finders)
        read = sensors.read
    try:
        with PolicyClient(url, retries=0) as client:
            rule = Fallback(hold_steps=4, brake=0.5)
            driver = SafeDriver(client, deadline=deadline, fallback=rule)
            with CarlaAgent(world, vehicle, driver, read) as agent:
                for _ in range(round(seconds / 0.05)):
                    step = agent.tick()
                    if step is not None and step.error is not None:
                        print(step.error)
    finally:
        if sensors is not None:
            sensors.close()
    return driver


def main() -> None:
    """Spawn a car, drive it, and take it away again."""
    import carla

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="of the CarlaRL service")
    parser.add_argument("--host", default="127.0.0.1", help="of CARLA")
    parser.add_argument("--port", type=int, default=2000, help="of CARLA")
    parser.add_argument("--seconds", type=float, default=60.0, help="simulated")
    parser.add_argument("--sense", choices=["lidar", "obstacles", "map"], default="lidar")
    given = parser.parse_args()

    simulator = carla.Client(given.host, given.port)
    simulator.set_timeout(20.0)
    world = simulator.get_world()
    blueprint = world.get_blueprint_library().find("vehicle.tesla.model3")
    vehicle = world.spawn_actor(blueprint, world.get_map().get_spawn_points()[0])
    try:
        driver = drive(world, vehicle, given.url, given.seconds, given.sense)
    finally:
        vehicle.destroy()
    print(f"{driver.steps} steps, {driver.fallback_steps} of them on the fallback")


if __name__ == "__main__":
    main()
