"""The example track with a bird's-eye raster of the road for its driver, in place of finders."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from examples.track import Floats, Track, TrackEnv

SIZE = 48  # pixels, of a side of the raster
PIXEL = 1.25  # m
BEHIND = 6  # rows of pixels behind the car
CELL = 0.25  # m, of the map that rasters are read from
MARGIN = 70.0  # m around the track, more than a raster reaches
SHAPES = {"road": [SIZE, SIZE, 1], "speed": [1]}


class SightEnv(TrackEnv):
    """The car of `TrackEnv`, which sees the road around it from above.

    Observation, a Dict: `road`, uint8 of shape (48, 48, 1), 0 beside the road and 255 on it, at its
    edges between, 1.25 m a pixel; the car heads for the top, between the middle columns and with 6
    rows behind it. `speed`, float32 of shape (1,), 0 to 200 km/h.
    """

    def __init__(self, **options: Any) -> None:
        """Draw the map; see `TrackEnv` for the options."""
        super().__init__(**options)
        road = spaces.Box(0, 255, SHAPES["road"], np.uint8)
        speed = spaces.Box(self._low[:1], self._high[:1])
        self.observation_space = spaces.Dict({"road": road, "speed": speed})
        self._map, self._corner = _road_map()
        row, column = np.indices((SIZE, SIZE)).reshape(2, -1)
        ahead, left = SIZE - BEHIND - 0.5 - row, SIZE / 2 - 0.5 - column
        self._pixels = PIXEL / CELL * np.stack((ahead, left))

    def _observation(self) -> dict[str, NDArray[Any]]:
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        origin = (np.array((self.x, self.y)) - self._corner) / CELL
        x, y = (np.array(((cos, -sin), (sin, cos))) @ self._pixels + origin[:, None]).astype(int)
        speed = np.array([self.speed * 3.6], np.float32).clip(self._low[:1], self._high[:1])
        return {"road": self._map[x, y].reshape(SHAPES["road"]), "speed": speed}


@functools.cache
def _road_map() -> tuple[NDArray[np.uint8], Floats]:
    """Return how much of a pixel around each cell is road, 0 to 255 over (x, y), and its corner."""
    track = Track(spacing=CELL)
    corner = track.centre.min(axis=0) - MARGIN
    shape = np.ceil((track.centre.max(axis=0) + MARGIN - corner) / CELL).astype(int)
    distance = np.full(shape, np.inf)  # from the centre line, where that is near
    reach = math.ceil((track.width + PIXEL) / 2.0 / CELL)
    around = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    for point in (track.centre - corner) / CELL:
        x, y = around + point.astype(int)[:, None, None]
        near = np.hypot(x + 0.5 - point[0], y + 0.5 - point[1]) * CELL
        distance[x, y] = np.minimum(distance[x, y], near)
    share = ((track.width / 2.0 - distance) / PIXEL + 0.5).clip(0.0, 1.0)
    return (share * 255.0).astype(np.uint8), corner
