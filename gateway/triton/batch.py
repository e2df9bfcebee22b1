"""Observations as they travel: the bytes of each row behind the other."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

ACTION_BYTES = 12
"""One action: throttle, brake and steer as little-endian FP32."""

KEY_BYTES = 16
"""What a row's noise depends on: its seed and its index in its request, as INT64."""

DETERMINISTIC = -1
"""The seed of a row without noise."""


class Seen(Protocol):
    """An observation, however it was decoded."""

    @property
    def speed(self) -> float:
        """Speed in km/h."""

    @property
    def steering(self) -> float:
        """Steering wheel, -1 to 1."""

    @property
    def sensors(self) -> Sequence[float]:
        """Readings."""


@dataclass(slots=True)
class Rows:
    """`count` rows, little-endian.

    `observations` holds for each row speed, steering and the sensors as FP32; `keys` holds for
    each row its seed (or `DETERMINISTIC`) and its index as INT64, or nothing where all rows are
    deterministic.
    """

    count: int
    observations: bytes
    keys: bytes = b""

    @classmethod
    def of(cls, seen: Sequence[Seen], seed: int | None) -> "Rows":
        """Lay out the observations of one request; deterministic where `seed` is None."""
        values = [value for one in seen for value in (one.speed, one.steering, *one.sensors)]
        keys = b""
        if seed is not None:
            keys = array("q", [n for row in range(len(seen)) for n in (seed, row)]).tobytes()
        return cls(len(seen), array("f", values).tobytes(), keys)

    @classmethod
    def join(cls, parts: Sequence["Rows"]) -> "Rows":
        """Put rows of several requests behind each other."""
        if len(parts) == 1:
            return parts[0]
        keys = b""
        if any(part.keys for part in parts):
            keys = b"".join(part.keys or _NO_KEY * part.count for part in parts)
        return cls(
            sum(part.count for part in parts), b"".join([p.observations for p in parts]), keys
        )

    @property
    def width(self) -> int:
        """Bytes of one row's observation."""
        return len(self.observations) // self.count

    def pick(self, indices: Iterable[int]) -> "Rows":
        """Give some of the rows, in the order of `indices`."""
        return Rows.join([self._slice(index, index + 1) for index in indices])

    def split(self, size: int) -> list["Rows"]:
        """Cut into pieces of at most `size` rows."""
        if self.count <= size:
            return [self]
        return [self._slice(start, start + size) for start in range(0, self.count, size)]

    def _slice(self, start: int, stop: int) -> "Rows":
        width = self.width
        return Rows(
            min(stop, self.count) - start,
            self.observations[width * start : width * stop],
            self.keys[KEY_BYTES * start : KEY_BYTES * stop],
        )


_NO_KEY = array("q", [DETERMINISTIC, 0]).tobytes()
