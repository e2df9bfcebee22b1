"""The example track for a driver that has no speedometer: its speed is in no single observation."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from numpy.typing import NDArray

from examples.track import TrackEnv

SHAPES: dict[str, list[int]] = {"steering": [], "sensors": [5]}


def hide(observation: NDArray[Any]) -> NDArray[Any]:
    """Return what is left of observations of `TrackEnv`, shape (..., 7), without their speed."""
    return observation[..., 1:]


class MemoryEnv(TrackEnv):
    """The car of `TrackEnv` with its speed hidden: it shows in how the ranges change.

    Observation, float32 of shape (6,): steering, then the five range finders.
    """

    def __init__(self, **options: Any) -> None:
        """See `TrackEnv` for the options."""
        super().__init__(**options)
        self.observation_space = spaces.Box(hide(self._low), hide(self._high))

    def _observation(self) -> NDArray[Any]:
        return hide(super()._observation())
