"""Gymnasium's spaces as plain data.

`policy_spec.parsing.parse_space` makes them and checks them: use it wherever their parts are not
constants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from policy_spec.dtypes import DTYPES, DType, Number

Bounds = Number | tuple[Number, ...]
"""One number for all elements, or one for each, row-major. Never a tuple of equal numbers."""


class _Leaf:
    """What all spaces without parts have in common."""

    dtype: str
    shape: tuple[int, ...]
    low: Bounds
    high: Bounds

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def element(self) -> DType:
        """The data type of an element."""
        return DTYPES[self.dtype]

    def limits(self) -> tuple[Bounds, Bounds]:
        """Return the least and greatest values that a caller may send: always finite.

        A bound admits its own rounding to the data type, too: a float32 0.1 is more than 0.1.
        """
        return self._widen(self.low, min), self._widen(self.high, max)

    def _widen(self, bounds: Bounds, choose: Callable[[Number, Number], Number]) -> Bounds:
        dtype = self.element
        if not dtype.floating:
            return bounds

        def one(bound: Number) -> Number:
            if math.isinf(bound):
                return math.copysign(dtype.high, bound)
            return choose(bound, dtype.round(bound))

        return tuple(map(one, bounds)) if isinstance(bounds, tuple) else one(bounds)


@dataclass(frozen=True)
class Box(_Leaf):
    """Numbers between bounds, which may be infinite for floats. `dtype` is a name of `DTYPES`."""

    dtype: str
    shape: tuple[int, ...]
    low: Bounds
    high: Bounds
    unit: str | None = None
    description: str | None = None


@dataclass(frozen=True)
class Discrete(_Leaf):
    """One integer of `n`, from `start` on."""

    n: int
    start: int = 0
    unit: str | None = None
    description: str | None = None
    dtype = "int64"
    shape = ()

    @property
    def low(self) -> Bounds:  # type: ignore[override]
        """The first value."""
        return self.start

    @property
    def high(self) -> Bounds:  # type: ignore[override]
        """The last value."""
        return self.start + self.n - 1


@dataclass(frozen=True)
class MultiDiscrete(_Leaf):
    """A vector of integers: element `i` is one of `nvec[i]`, from `start[i]` on."""

    nvec: tuple[int, ...]
    start: tuple[int, ...]
    unit: str | None = None
    description: str | None = None
    dtype = "int64"

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Number of branches."""
        return (len(self.nvec),)

    @property
    def low(self) -> Bounds:  # type: ignore[override]
        """The first value of each branch."""
        return uniform(self.start)

    @property
    def high(self) -> Bounds:  # type: ignore[override]
        """The last value of each branch."""
        return uniform(s + n - 1 for s, n in zip(self.start, self.nvec, strict=True))


@dataclass(frozen=True)
class MultiBinary(_Leaf):
    """Zeros and ones."""

    shape: tuple[int, ...]
    unit: str | None = None
    description: str | None = None
    dtype = "int8"
    low = 0
    high = 1


@dataclass(frozen=True)
class Dict:
    """Named parts, in order: two with another order are different spaces."""

    subspaces: tuple[tuple[str, Space], ...]

    @cached_property
    def parts(self) -> dict[str, Space]:
        """The parts by name."""
        return dict(self.subspaces)


@dataclass(frozen=True)
class Tuple:
    """Parts in order."""

    subspaces: tuple[Space, ...]


LeafSpace = Box | Discrete | MultiDiscrete | MultiBinary
Space = LeafSpace | Dict | Tuple


def to_data(space: Space) -> dict[str, Any]:
    """Return the card's form: plain data without NaN and infinity. `parse_space` reads it back."""
    if isinstance(space, Dict):
        return {"type": "Dict", "subspaces": {key: to_data(sub) for key, sub in space.subspaces}}
    if isinstance(space, Tuple):
        return {"type": "Tuple", "subspaces": [to_data(sub) for sub in space.subspaces]}
    data: dict[str, Any] = {"type": type(space).__name__}
    if isinstance(space, Box):
        bounds = (_write(bound, space.shape) for bound in (space.low, space.high))
        low, high = bounds
        data |= {"dtype": space.dtype, "shape": list(space.shape), "low": low, "high": high}
    elif isinstance(space, Discrete):
        data |= {"dtype": space.dtype, "start": space.start, "n": space.n}
    elif isinstance(space, MultiDiscrete):
        data |= {"dtype": space.dtype, "nvec": list(space.nvec), "start": list(space.start)}
    else:
        data["n"] = space.shape[0] if len(space.shape) == 1 else list(space.shape)
    said = {"unit": space.unit, "description": space.description}
    return data | {key: text for key, text in said.items() if text is not None}


def nest(values: Iterable[Any], shape: tuple[int, ...]) -> Any:
    """Return the elements, row-major, as nested lists; as the one element for shape `()`."""
    items = list(values)
    for width in reversed(shape):
        items = [items[start : start + width] for start in range(0, len(items), width)]
    return items[0]


def at(bounds: Bounds, index: int) -> Number:
    """Return the bound of one element."""
    return bounds[index] if isinstance(bounds, tuple) else bounds


def without(space: Space, *texts: str) -> Space:
    """Return the same space without some of its texts, which are `unit` and `description`."""
    if isinstance(space, Dict):
        return Dict(tuple((key, without(sub, *texts)) for key, sub in space.subspaces))
    if isinstance(space, Tuple):
        return Tuple(tuple(without(sub, *texts) for sub in space.subspaces))
    nothing: dict[str, Any] = dict.fromkeys(texts)
    return replace(space, **nothing)


def uniform(values: Iterable[Number]) -> Bounds:
    """Return bounds of single elements; the one number where all are equal."""
    bounds = tuple(values)
    return bounds[0] if len(set(bounds)) == 1 else bounds


def _write(bounds: Bounds, shape: tuple[int, ...]) -> Any:
    def one(bound: Number) -> Number | str:
        return str(bound) if math.isinf(bound) else bound

    return nest(map(one, bounds), shape) if isinstance(bounds, tuple) else one(bounds)
