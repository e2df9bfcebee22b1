"""The `control` of a card: how a policy's own action becomes throttle, brake and steer.

`layout` names the elements of a Box, `table` gives a control for each value of a Discrete, `axes` a
list of values for each branch of a MultiDiscrete. All become one form: for each number of the
control a `Scaled` or a `Lookup`, which plain Python, numpy and a graph can compute.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from policy_spec.dtypes import Number
from policy_spec.spaces import LeafSpace, at

RANGES = {
    "throttle": (0.0, 1.0),
    "brake": (0.0, 1.0),
    "steer": (-1.0, 1.0),
    "acceleration": (-1.0, 1.0),
    "reverse": (0.0, 1.0),
    "hand_brake": (0.0, 1.0),
}
"""What a mapping may name, with its range. `acceleration` above 0 is throttle, below it brake."""
SWITCHES = ("reverse", "hand_brake")
"""Booleans: 1 and 0 as numbers, on above 0.5."""


@dataclass(frozen=True)
class Scaled:
    """`clip(value * (positive if value > 0 else negative) + offset, low, high)`.

    `value` is element `index` of the action. A switch is on where the result is above 0.5.
    """

    index: int
    positive: float
    negative: float
    offset: float
    low: float
    high: float

    def apply(self, action: Sequence[Number]) -> float:
        """Return the number for an action, flat."""
        value = action[self.index]
        scaled = value * (self.positive if value > 0 else self.negative) + self.offset
        return min(max(scaled, self.low), self.high)


@dataclass(frozen=True)
class Lookup:
    """`values[action[index] - start]`."""

    index: int
    start: int
    values: tuple[float, ...]

    def apply(self, action: Sequence[Number]) -> float:
        """Return the number for an action, flat."""
        return self.values[int(action[self.index]) - self.start]


Column = Scaled | Lookup


@dataclass(frozen=True)
class Control:
    """A checked mapping. Make it by `policy_spec.control_parsing.parse_control`.

    Attributes:
        names: of the control's numbers: throttle, brake, steer, then reverse and hand_brake where
            the mapping has them.
        columns: how each is computed, in the order of `names`.
        layout: names of the Box's elements, or empty.
        scale: for each element of `layout`, `linear`, `clip`, or None where its range is the
            control's already.
        table: a control for each value of the Discrete, as (name, value) pairs, or empty.
        axes: a name and its values for each branch of the MultiDiscrete, or empty.
    """

    names: tuple[str, ...]
    columns: tuple[Column, ...]
    layout: tuple[str, ...] = ()
    scale: tuple[str | None, ...] = ()
    table: tuple[tuple[tuple[str, float], ...], ...] = ()
    axes: tuple[tuple[str, tuple[float, ...]], ...] = ()

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest value of each number."""
        return {name: RANGES[name] for name in self.names}

    @property
    def switches(self) -> tuple[str, ...]:
        """The names that are booleans in JSON."""
        return tuple(name for name in self.names if name in SWITCHES)

    def keeps(self, space: LeafSpace) -> bool:
        """Return whether the control is the action, number by number, for each action of `space`.

        So it is for a Box of throttle, brake and steer in that order, within their ranges.
        """
        return (
            self.layout == self.names
            and not self.switches
            and all(
                isinstance(column, Scaled)
                and (column.index, column.positive, column.negative) == (index, 1.0, 1.0)
                and column.offset == 0.0
                and column.low <= at(space.low, index)
                and at(space.high, index) <= column.high
                for index, column in enumerate(self.columns)
            )
        )

    def numbers(self, action: Any) -> list[float]:
        """Return the control's numbers for an action in JSON form; switches are 0.0 or 1.0."""
        flat = action if isinstance(action, (list, tuple)) else [action]
        found = [column.apply(flat) for column in self.columns]
        return [
            float(value > 0.5) if name in SWITCHES else value
            for name, value in zip(self.names, found, strict=True)
        ]

    def named(self, numbers: Sequence[float]) -> dict[str, float | bool]:
        """Return the JSON form of the control's numbers."""
        return _named(zip(self.names, numbers, strict=True))

    def apply(self, action: Any) -> dict[str, float | bool]:
        """Return the JSON form of the control for an action in JSON form: the reference."""
        return self.named(self.numbers(action))

    def to_data(self) -> dict[str, Any]:
        """Return the card's form."""
        if self.layout:
            scale = {n: s for n, s in zip(self.layout, self.scale, strict=True) if s is not None}
            return {"layout": list(self.layout)} | ({"scale": scale} if scale else {})
        if self.table:
            return {"table": [_named(row) for row in self.table]}
        return {"axes": [{name: list(values)} for name, values in self.axes]}


def _named(pairs: Iterable[tuple[str, float]]) -> dict[str, float | bool]:
    return {name: value > 0.5 if name in SWITCHES else value for name, value in pairs}
