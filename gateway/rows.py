"""Observations as Triton takes them: for each input tensor its bytes, row after row."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

TENSORS = (
    ("speed", "FP32"),
    ("steering", "FP32"),
    ("sensors", "FP32"),
    ("deterministic", "BOOL"),
    ("seed", "INT64"),
    ("row", "INT64"),
)
"""Names and data types of the policy's inputs, in the order of `Rows.tensors`."""

ACTION_BYTES = 12
"""One action: throttle, brake and steer as little-endian FP32."""


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


@dataclass(frozen=True, slots=True)
class Rows:
    """`count` rows; `tensors` holds the bytes of each of `TENSORS`, little-endian."""

    count: int
    tensors: tuple[bytes, ...]

    @classmethod
    def of(cls, observations: Sequence[Seen], seed: int | None) -> "Rows":
        """Lay out the observations of one request; deterministic where `seed` is None."""
        count = len(observations)
        return cls(
            count,
            (
                array("f", [seen.speed for seen in observations]).tobytes(),
                array("f", [seen.steering for seen in observations]).tobytes(),
                array("f", chain.from_iterable(s.sensors for s in observations)).tobytes(),
                (b"\x01" if seed is None else b"\x00") * count,
                (seed or 0).to_bytes(8, "little") * count,
                _FIRST_ROWS[: 8 * count] if count <= _MANY else _row_numbers(range(count)),
            ),
        )

    @classmethod
    def join(cls, parts: Sequence["Rows"]) -> "Rows":
        """Put rows of several requests behind each other."""
        if len(parts) == 1:
            return parts[0]
        tensors = zip(*(part.tensors for part in parts), strict=True)
        return cls(sum(part.count for part in parts), tuple(map(b"".join, tensors)))

    def pick(self, indices: Iterable[int]) -> "Rows":
        """Give some of the rows, in the order of `indices`."""
        chosen = list(indices)
        widths = [len(tensor) // self.count for tensor in self.tensors]
        return Rows(
            len(chosen),
            tuple(
                b"".join(tensor[width * i : width * (i + 1)] for i in chosen)
                for tensor, width in zip(self.tensors, widths, strict=True)
            ),
        )

    def split(self, size: int) -> list["Rows"]:
        """Cut into pieces of at most `size` rows."""
        if self.count <= size:
            return [self]
        widths = [len(tensor) // self.count for tensor in self.tensors]
        return [
            Rows(
                min(size, self.count - start),
                tuple(
                    tensor[width * start : width * (start + size)]
                    for tensor, width in zip(self.tensors, widths, strict=True)
                ),
            )
            for start in range(0, self.count, size)
        ]


def _row_numbers(rows: Any) -> bytes:
    return array("q", rows).tobytes()


_MANY = 1000
_FIRST_ROWS = _row_numbers(range(_MANY))
