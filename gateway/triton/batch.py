"""Rows of observations as bytes, one row after the other."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.api.images import Data, cut, joined
from gateway.api.observations import Packed
from gateway.triton.tensors import Tensors

DETERMINISTIC = -1
"""The seed of a row without noise."""


@dataclass(slots=True)
class Rows:
    """`count` rows, little-endian.

    `observations` holds for each row the leaves that are packed, as FP32, and `others` for each
    leaf that travels apart its own bytes, or its images as they came, and then the tensors of the
    policy's memory, if it has one. `keys` holds for each row its
    seed (or `DETERMINISTIC`) and its index as INT64, or nothing where all rows are deterministic.
    `tensors` says which is which, and what comes back.
    """

    tensors: Tensors
    count: int
    observations: bytes
    others: tuple[Data, ...] = ()
    keys: bytes = b""

    @property
    def encoded(self) -> bool:
        """Whether there are images as they came."""
        return bool(self.others) and any(isinstance(data, tuple) for data in self.others)

    @classmethod
    def of(
        cls,
        tensors: Tensors,
        count: int,
        packed: Packed,
        seed: int | None,
        states: Sequence[bytes | None] = (),
    ) -> "Rows":
        """Lay out the observations of one request; deterministic where `seed` is None.

        `states` is the memory of each row; without it an episode starts in all of them.
        """
        keys = b""
        if seed is not None:
            keys = array("q", [n for row in range(count) for n in (seed, row)]).tobytes()
        observations, others = packed
        if tensors.state:
            others = (*others, *tensors.memory(states or [None] * count))
        return cls(tensors, count, observations, others, keys)

    @classmethod
    def join(cls, parts: Sequence["Rows"]) -> "Rows":
        """Join the rows of several requests for the same model."""
        first = parts[0]
        if len(parts) == 1:
            return first
        keys = b""
        if any(part.keys for part in parts):
            keys = b"".join(part.keys or _NO_KEY * part.count for part in parts)
        others: tuple[Data, ...] = ()
        if first.others:
            counts = [part.count for part in parts]
            leaves = zip(*(part.others for part in parts), strict=True)
            others = tuple(joined(leaf, counts) for leaf in leaves)
        return cls(
            first.tensors,
            sum(part.count for part in parts),
            b"".join([part.observations for part in parts]),
            others,
            keys,
        )

    def pick(self, indices: Iterable[int]) -> "Rows":
        """Return some of the rows, in the order of `indices`."""
        return Rows.join([self._slice(index, index + 1) for index in indices])

    def split(self, size: int) -> list["Rows"]:
        """Cut into pieces of at most `size` rows."""
        if self.count <= size:
            return [self]
        return [self._slice(start, start + size) for start in range(0, self.count, size)]

    def contents(self) -> list[tuple[bytes, ...]]:
        """Return the bytes of each row: which leaves are images, its packed leaves, the others."""
        kinds = bytes(isinstance(data, tuple) for data in self.others) if self.others else b""
        each = [cut(data, self.count) for data in (self.observations, *self.others)]
        return [(kinds, *row) for row in zip(*each, strict=True)]

    def _slice(self, start: int, stop: int) -> "Rows":
        count = self.count
        stop = min(stop, count)

        def part(data: bytes) -> bytes:
            width = len(data) // count
            return data[width * start : width * stop]

        others = tuple(
            data[start:stop] if isinstance(data, tuple) else part(data) for data in self.others
        )
        return Rows(self.tensors, stop - start, part(self.observations), others, part(self.keys))


_NO_KEY = array("q", [DETERMINISTIC, 0]).tobytes()
