"""The card's `control`, read and checked against the action space."""

import math
from collections.abc import Mapping
from typing import Any

from policy_spec.checks import SpecError, fields, shown
from policy_spec.control import RANGES, SWITCHES, Column, Control, Lookup, Scaled
from policy_spec.spaces import Box, Discrete, MultiDiscrete, Space, at

LAYOUTS = (("throttle", "brake", "steer"), ("steer", "acceleration"))
SCALES = ("linear", "clip")


def parse_control(data: Any, space: Space, path: str = "control") -> Control:
    """Read a card's `control` for the action space; raise SpecError."""
    if isinstance(space, Box):
        return _layout(fields(data, path, ("layout",), ("scale",)), space, path)
    if isinstance(space, Discrete):
        return _table(fields(data, path, ("table",)), space, path)
    if isinstance(space, MultiDiscrete):
        return _axes(fields(data, path, ("axes",)), space, path)
    raise SpecError(
        path,
        f"a {type(space).__name__} can't be mapped: only a Box (layout), a Discrete (table) and a "
        "MultiDiscrete (axes) can; without control an action is answered in its own space",
    )


def _layout(data: Any, space: Box, path: str) -> Control:
    names = _strings(data["layout"], f"{path}.layout")
    if not any(sorted(set(names) - set(SWITCHES)) == sorted(known) for known in LAYOUTS):
        known = " or ".join(", ".join(layout) for layout in LAYOUTS)
        message = f"must be {known}, in any order, and may have {' and '.join(SWITCHES)}"
        raise SpecError(f"{path}.layout", message)
    if len(set(names)) != len(names):
        raise SpecError(f"{path}.layout", "must name each element once")
    if space.shape != (len(names),):
        raise SpecError(
            f"{path}.layout",
            f"has {len(names)} names, and the action's shape is {list(space.shape)}",
        )
    given = data.get("scale", {})
    if isinstance(given, str):
        given = dict.fromkeys(names, given)
    fields(given, f"{path}.scale", (), names)
    scale: list[str | None] = []
    columns: dict[str, Column] = {}
    for index, name in enumerate(names):
        low, high = at(space.low, index), at(space.high, index)
        how = given.get(name)
        where = f"{path}.scale.{name}"
        if how is not None and how not in SCALES:
            raise SpecError(where, f"must be linear or clip, not {shown(how)}")
        if (low, high) == RANGES[name]:
            how = None
        elif how is None:
            bounds = RANGES[name]
            raise SpecError(
                where,
                f"is missing: the policy's {name} goes from {low} to {high}, the control's from "
                f"{bounds[0]} to {bounds[1]}; say linear to scale it, or clip",
            )
        scale.append(how)
        columns |= _scaled(name, index, float(low), float(high), how == "linear", where)
    names_out, ordered = _ordered(columns, Scaled(0, 0.0, 0.0, 0.0, 0.0, 0.0))
    return Control(names_out, ordered, layout=tuple(names), scale=tuple(scale))


def _scaled(
    name: str, index: int, low: float, high: float, linear: bool, path: str
) -> dict[str, Column]:
    """Return the columns for one element of a Box; signed ones keep zero."""
    least, most = RANGES[name]
    positive = negative = 1.0
    offset = 0.0
    if linear:
        if not math.isfinite(high - low) or low == high:
            raise SpecError(path, f"linear needs a finite range, not {low} to {high}: say clip")
        if least < 0:
            if not low < 0 < high:
                raise SpecError(
                    path,
                    f"linear keeps zero, so the range must have numbers on both sides of it, not "
                    f"{low:g} to {high:g}: change the action in the environment",
                )
            positive = 1 / high if high > 0 else -1 / low
            negative = -1 / low if low < 0 else positive
        else:
            positive = negative = 1 / (high - low)
            offset = -low * positive
    if name != "acceleration":
        return {name: Scaled(index, positive, negative, offset, least, most)}
    return {
        "throttle": Scaled(index, positive, negative, 0.0, 0.0, 1.0),
        "brake": Scaled(index, -positive, -negative, 0.0, 0.0, 1.0),
    }


def _table(data: Any, space: Discrete, path: str) -> Control:
    given = data["table"]
    if not isinstance(given, (list, tuple)) or len(given) != space.n:
        raise SpecError(f"{path}.table", f"must be a list of {space.n} controls, one a value")
    rows = []
    for index, row in enumerate(given):
        where = f"{path}.table.{index}"
        fields(row, where, (), tuple(RANGES))
        _check_names(row, where)
        rows.append({name: _value(name, row[name], f"{where}.{name}") for name in row})
    used = [name for name in RANGES if any(name in row for row in rows)]
    columns: dict[str, Column] = {}
    split = [_split(row) for row in rows]
    for name in {name for row in split for name in row}:
        columns[name] = Lookup(0, space.start, tuple(row.get(name, 0.0) for row in split))
    names, ordered = _ordered(columns, Lookup(0, space.start, (0.0,) * space.n))
    table = tuple(tuple((name, row[name]) for name in used if name in row) for row in rows)
    return Control(names, ordered, table=table)


def _axes(data: Any, space: MultiDiscrete, path: str) -> Control:
    given = data["axes"]
    if isinstance(given, Mapping):
        given = [{name: values} for name, values in given.items()]
    if not isinstance(given, (list, tuple)) or len(given) != len(space.nvec):
        raise SpecError(
            f"{path}.axes",
            f"must be {len(space.nvec)} names with values, one a branch, like steer: [-1, 0, 1]",
        )
    axes: list[tuple[str, tuple[float, ...]]] = []
    columns: dict[str, Column] = {}
    for index, branch in enumerate(given):
        where = f"{path}.axes.{index}"
        fields(branch, where, (), tuple(RANGES))
        if len(branch) != 1:
            raise SpecError(where, "must have one name with its values")
        ((name, values),) = branch.items()
        if not isinstance(values, (list, tuple)) or len(values) != space.nvec[index]:
            raise SpecError(f"{where}.{name}", f"must be a list of {space.nvec[index]} values")
        numbers = tuple(_value(name, v, f"{where}.{name}.{i}") for i, v in enumerate(values))
        axes.append((name, numbers))
        rows = [_split({name: number}) for number in numbers]
        for part in rows[0]:
            column = Lookup(index, space.start[index], tuple(row[part] for row in rows))
            columns[part] = column
    names = [name for name, _ in axes]
    _check_names(names, f"{path}.axes")
    idle = Lookup(0, space.start[0], (0.0,) * space.nvec[0])
    names_out, ordered = _ordered(columns, idle)
    return Control(names_out, ordered, axes=tuple(axes))


def _check_names(names: Any, path: str) -> None:
    if len(set(names)) != len(names):
        raise SpecError(path, "must not name a control twice")
    if "acceleration" in names and ("throttle" in names or "brake" in names):
        raise SpecError(path, "acceleration is throttle and brake: name it, or those two")


def _value(name: str, value: Any, path: str) -> float:
    low, high = RANGES[name]
    if name in SWITCHES and type(value) in (bool, int, float) and value in (0, 1):
        return float(value)
    if name in SWITCHES or type(value) not in (int, float) or not low <= value <= high:
        allowed = "true or false" if name in SWITCHES else f"a number from {low} to {high}"
        raise SpecError(path, f"must be {allowed}, not {shown(value)}")
    return float(value)


def _split(row: dict[str, float]) -> dict[str, float]:
    """Return a control with throttle and brake in place of acceleration."""
    if "acceleration" not in row:
        return row
    rest = {name: value for name, value in row.items() if name != "acceleration"}
    value = row["acceleration"]
    return rest | {"throttle": max(value, 0.0), "brake": max(-value, 0.0)}


def _ordered(
    columns: dict[str, Column], idle: Column
) -> tuple[tuple[str, ...], tuple[Column, ...]]:
    """Put columns in the control's order; one that the mapping lacks is 0."""
    names = [
        name
        for name in RANGES
        if name != "acceleration" and (name not in SWITCHES or name in columns)
    ]
    return tuple(names), tuple(columns.get(name, idle) for name in names)


def _strings(data: Any, path: str) -> list[str]:
    if not isinstance(data, (list, tuple)) or not all(isinstance(one, str) for one in data):
        raise SpecError(path, f"must be a list of names, not {shown(data)}")
    return list(data)
