"""CARLA's obstacle sensors as range finders."""

from __future__ import annotations

import functools
import threading
from typing import Any

from carlarl_client.carla import RangeFinders


class ObstacleSensors:
    """A `sensor.other.obstacle` on a vehicle in a synchronous world for each range finder.

    Each sweeps a small ball from the vehicle's origin outwards at every tick, past the own car, and
    says how far it came, where it met anything: any actor, static ones and the road among them, so
    on a slope that begins within reach it reads the road. Where nothing is met no event comes, and
    events come in their own time. So a reading is of this tick where an event of it has come, of
    the tick before where one of that has, and else 1; what the tick before met is waited for.
    """

    def __init__(
        self,
        world: Any,
        vehicle: Any,
        finders: RangeFinders | None = None,
        height: float = 0.6,
        hit_radius: float = 0.1,
        timeout: float = 0.05,
    ) -> None:
        """Spawn them.

        Args:
            world, vehicle: a `carla.World` and a `carla.Vehicle` of it.
            finders: whose bearings and reach they have; `RangeFinders()` where absent.
            height: metres of the balls' middles above the vehicle's origin.
            hit_radius: metres; below `height`, or the road is met at once.
            timeout: real seconds that `read` waits for what the tick before met, and the first one
                for all.
        """
        import carla

        self._finders = finders or RangeFinders()
        self._hit_radius = hit_radius
        self._timeout = timeout
        self._heard = threading.Condition()
        self._met: list[tuple[int, float] | None] = [None for _ in self._finders.bearings]
        self._first = True
        self._sensors = []
        library = world.get_blueprint_library()
        for number, bearing in enumerate(self._finders.bearings):
            blueprint = library.find("sensor.other.obstacle")
            for name, value in {
                "distance": str(self._finders.reach - hit_radius),
                "hit_radius": str(hit_radius),
                "only_dynamics": "false",
            }.items():
                blueprint.set_attribute(name, value)
            place = carla.Transform(carla.Location(z=height), carla.Rotation(yaw=-bearing))
            sensor = world.spawn_actor(blueprint, place, attach_to=vehicle)
            sensor.listen(functools.partial(self._hear, number))
            self._sensors.append(sensor)

    def read(self, frame: int) -> list[float]:
        """Return the readings of the tick `frame`, left to right, each 0 to 1 of the reach."""
        with self._heard:
            self._heard.wait_for(lambda: self._all_came(frame), self._timeout)
            self._first = False
            return [self._reading(met, frame) for met in self._met]

    def close(self) -> None:
        """Take them off the vehicle."""
        for sensor in self._sensors:
            sensor.stop()
            sensor.destroy()

    def _hear(self, number: int, event: Any) -> None:
        with self._heard:
            before = self._met[number]
            if before is None or event.frame >= before[0]:
                self._met[number] = event.frame, event.distance
            self._heard.notify_all()

    def _all_came(self, frame: int) -> bool:
        """Whether all finders have an event of `frame` that had one of the tick before."""
        return all(met[0] != frame - 1 if met is not None else not self._first for met in self._met)

    def _reading(self, met: tuple[int, float] | None, frame: int) -> float:
        if met is None or met[0] < frame - 1:
            return 1.0
        return min((met[1] + self._hit_radius) / self._finders.reach, 1.0)
