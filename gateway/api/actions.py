"""Actions of a policy: the tensors that Triton gives, and their form in answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, starmap
from struct import Struct
from typing import Any

import msgspec

from policy_spec.control import SWITCHES, Control
from policy_spec.dtypes import DTYPES
from policy_spec.spaces import Box, LeafSpace, nest

MAX_LABELS = 16
"""Elements of an action without control that metrics tell of."""

Row = tuple[Any, ...]
"""The numbers of one row: of `action`, then of `policy_action` where there is one."""


@dataclass(frozen=True)
class Output:
    """A tensor that a model gives: its name, the data type of an element, and their number."""

    name: str
    dtype: str
    size: int

    @property
    def triton(self) -> str:
        """Triton's name of the data type."""
        return DTYPES[self.dtype].triton

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.size * DTYPES[self.dtype].itemsize


class Actions:
    """What a policy answers with: controls, or without a control actions in its own space.

    `outputs` are what a model of it gives, `labels` what metrics call the first numbers of a row.
    """

    def __init__(self, space: LeafSpace, control: Control | None, apart: bool) -> None:
        """Take the policy's own space; `apart`: its models have the output `policy_action`, too."""
        own = "float32" if isinstance(space, Box) else space.dtype
        self.outputs = [Output("action", own, space.size)]
        self._space = space
        self._make: Callable[..., Any] | None = None
        self._switches: list[int] = []
        self._order: list[int] | None = None
        self.labels = [f"action.{index}" for index in range(min(space.size, MAX_LABELS))]
        if control is not None:
            names = control.names
            self.outputs = [Output("action", "float32", len(names))]
            if apart:
                self.outputs.append(Output("policy_action", own, space.size))
            self.labels = list(names)
            self._make = _struct(names)
            self._switches = [names.index(name) for name in control.switches]
            self._order = _order(control)
        self._count = self.outputs[0].size
        codes = (f"{one.size}{DTYPES[one.dtype].code}" for one in self.outputs)
        self._row = Struct(f"<{''.join(codes)}")
        self._plain = len(self.outputs) == 1 and not self._switches
        self.tells_own = control is None or apart or self._order is not None
        """Whether the policy's own actions are known."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self._row.size

    def rows(self, content: bytes | bytearray) -> list[Row]:
        """Read what Triton gave: all outputs of a row, then those of the next one."""
        return list(self._row.iter_unpack(content))

    def finite(self, rows: Sequence[Row]) -> bool:
        """Return whether all numbers are."""
        if len(rows) == 1:
            return math.isfinite(sum(rows[0]))  # NaN or infinity if one of them is
        return math.isfinite(sum(chain.from_iterable(rows)))

    def answered(self, rows: Sequence[Row]) -> list[Any]:
        """Return the actions of an answer."""
        make = self._make
        if make is None:
            return self.own(rows)
        if self._plain:
            return list(starmap(make, rows))
        if len(self.outputs) > 1:
            rows = [row[: self._count] for row in rows]
        if self._switches:
            switched = [list(row) for row in rows]
            for row in switched:
                for index in self._switches:
                    row[index] = row[index] > 0.5
            rows = [tuple(row) for row in switched]
        return list(starmap(make, rows))

    def own(self, rows: Sequence[Row]) -> list[Any]:
        """Return the policy's own actions, in the JSON form of its space, if `tells_own`."""
        if len(self.outputs) > 1:
            rows = [row[self._count :] for row in rows]
        elif self._order is not None:
            rows = [tuple(row[index] for index in self._order) for row in rows]
        if isinstance(self._space, Box) and not self._space.element.floating:
            rows = [tuple(map(round, row)) for row in rows]
        return [nest(row, self._space.shape) for row in rows]


@lru_cache(maxsize=64)
def actions_of(space: LeafSpace, control: Control | None, apart: bool) -> Actions:
    """Return the actions of policies with this space and mapping."""
    return Actions(space, control, apart)


def _order(control: Control) -> list[int] | None:
    """Return where each number of the policy's own action is among the control's.

    None where these are not the same numbers.
    """
    if any(control.scale) or control.switches or sorted(control.layout) != sorted(control.names):
        return None
    return [control.names.index(name) for name in control.layout]


@lru_cache(maxsize=64)
def _struct(names: tuple[str, ...]) -> Callable[..., Any]:
    """Return the type of a control: its names are those of `carla.VehicleControl`."""
    fields = [(name, bool if name in SWITCHES else float) for name in names]
    return msgspec.defstruct("Action", fields, gc=False)
