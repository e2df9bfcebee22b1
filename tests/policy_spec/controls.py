"""Controls in plain Python: what every graph of them must compute."""

from __future__ import annotations

from typing import Any

from policy_spec.control import Column, Control, Scaled


def numbers(control: Control, action: Any) -> list[float]:
    """Return the control's numbers for an action in JSON form; switches are 0.0 or 1.0."""
    flat = action if isinstance(action, list | tuple) else [action]
    found = zip(control.names, (_number(column, flat) for column in control.columns), strict=True)
    return [float(one > 0.5) if name in control.switches else one for name, one in found]


def apply(control: Control | None, action: Any) -> dict[str, float | bool]:
    """Return the JSON form of the control for an action in JSON form."""
    assert control is not None
    named = zip(control.names, numbers(control, action), strict=True)
    return {name: one > 0.5 if name in control.switches else one for name, one in named}


def _number(column: Column, action: Any) -> float:
    value = action[column.index]
    if not isinstance(column, Scaled):
        return column.values[int(value) - column.start]
    scaled = value * (column.positive if value > 0 else column.negative) + column.offset
    return float(min(max(scaled, column.low), column.high))
