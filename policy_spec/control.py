"""The `control` of a card: how a policy's own action becomes throttle, brake and steer.

`layout` names the elements of a Box, `table` gives a control for each value of a Discrete, `axes` a
list of values for each branch of a MultiDiscrete. All become one form: for each number of the
control a `Scaled` or a `Lookup`, which `converters.artifact.policy` makes a graph of.
"""

from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class Lookup:
    """`values[action[index] - start]`."""

    index: int
    start: int
    values: tuple[float, ...]


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

    @property
    def plain(self) -> bool:
        """Whether it is the policy's own action: throttle, brake and steer, in their ranges."""
        return self.layout == self.names and not any(self.scale) and not self.switches

    def to_data(self) -> dict[str, Any]:
        """Return the card's form."""
        if self.layout:
            scale = {n: s for n, s in zip(self.layout, self.scale, strict=True) if s is not None}
            return {"layout": list(self.layout)} | ({"scale": scale} if scale else {})
        if self.table:
            return {
                "table": [
                    {n: v > 0.5 if n in SWITCHES else v for n, v in row} for row in self.table
                ]
            }
        return {"axes": [{name: list(values)} for name, values in self.axes]}
