"""The card's form of a space, which is that of Minari's `serialize_space`, read and checked."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from policy_spec.checks import (
    MAX_ELEMENTS,
    MAX_INTEGER,
    SpecError,
    dtype_of,
    fields,
    integer,
    shape_of,
    shown,
    text,
)
from policy_spec.dtypes import DTYPES, Number
from policy_spec.spaces import (
    Bounds,
    Box,
    Dict,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    Space,
    Tuple,
    at,
    uniform,
)

MAX_DEPTH = 16
"""Levels of Dict and Tuple."""


def parse_space(data: Any, path: str) -> Space:
    """Read a space in the card's form; raise SpecError, which names the field below `path`."""
    return _space(data, path, MAX_DEPTH)


def _space(data: Any, path: str, depth: int) -> Space:
    given = data.get("type") if isinstance(data, Mapping) else data
    if not isinstance(data, Mapping) or not isinstance(given, str) or given not in _PARSERS:
        known = ", ".join(_PARSERS)
        raise SpecError(path, f"must be a mapping whose type is one of {known}, not {shown(given)}")
    if depth < 0:
        raise SpecError(path, f"must be nested {MAX_DEPTH} levels deep at most")
    return _PARSERS[given](data, path, depth)


def _said(data: Any, path: str) -> dict[str, str]:
    return {
        key: text(data[key], f"{path}.{key}")
        for key in ("unit", "description")
        if data.get(key) is not None
    }


_SAID = ("unit", "description")


def _box(data: Any, path: str, depth: int) -> Box:
    fields(data, path, ("type", "dtype", "shape", "low", "high"), _SAID)
    dtype = dtype_of(data["dtype"], f"{path}.dtype")
    shape = shape_of(data["shape"], f"{path}.shape")
    low, high = (_bounds(data[key], f"{path}.{key}", dtype, shape) for key in ("low", "high"))
    for index in range(
        math.prod(shape) if isinstance(low, tuple) or isinstance(high, tuple) else 1
    ):
        if not at(low, index) <= at(high, index):
            raise SpecError(
                path, f"low must not be above high: {at(low, index)}, {at(high, index)}"
            )
        if at(low, index) == math.inf or at(high, index) == -math.inf:
            raise SpecError(path, "low must not be inf, and high not -inf: nothing is between them")
    return Box(dtype, shape, low, high, **_said(data, path))


def _discrete(data: Any, path: str, depth: int) -> Discrete:
    fields(data, path, ("type", "n"), ("start", "dtype", *_SAID))
    _integers(data, path)
    n = integer(data["n"], f"{path}.n", 1)
    start = _start(data.get("start", 0), f"{path}.start", n)
    return Discrete(n, start, **_said(data, path))


def _multi_discrete(data: Any, path: str, depth: int) -> MultiDiscrete:
    fields(data, path, ("type", "nvec"), ("start", "dtype", *_SAID))
    _integers(data, path)
    given = data["nvec"]
    if not isinstance(given, (list, tuple)) or not 1 <= len(given) <= MAX_ELEMENTS:
        raise SpecError(f"{path}.nvec", f"must be a list of numbers, not {shown(given)}")
    nvec = tuple(integer(n, f"{path}.nvec.{i}", 1) for i, n in enumerate(given))
    starts = data.get("start", [0] * len(nvec))
    if not isinstance(starts, (list, tuple)) or len(starts) != len(nvec):
        raise SpecError(f"{path}.start", f"must be a list of {len(nvec)} numbers, as nvec")
    start = (_start(s, f"{path}.start.{i}", nvec[i]) for i, s in enumerate(starts))
    return MultiDiscrete(nvec, tuple(start), **_said(data, path))


def _multi_binary(data: Any, path: str, depth: int) -> MultiBinary:
    fields(data, path, ("type", "n"), ("dtype", *_SAID))
    _integers(data, path)
    given = data["n"]
    shape = shape_of(given if isinstance(given, (list, tuple)) else [given], f"{path}.n")
    if not shape:
        raise SpecError(f"{path}.n", "must be a number or a list of lengths, not empty")
    return MultiBinary(shape, **_said(data, path))


def _dict(data: Any, path: str, depth: int) -> Dict:
    parts = fields(data, path, ("type", "subspaces"))["subspaces"]
    if not isinstance(parts, Mapping) or not parts:
        raise SpecError(f"{path}.subspaces", "must be a mapping with at least one part")
    for key in parts:
        text(key, f"{path}.subspaces: the name {shown(key)}")
    return Dict(tuple((key, _space(sub, f"{path}.{key}", depth - 1)) for key, sub in parts.items()))


def _tuple(data: Any, path: str, depth: int) -> Tuple:
    parts = fields(data, path, ("type", "subspaces"))["subspaces"]
    if not isinstance(parts, (list, tuple)) or not parts:
        raise SpecError(f"{path}.subspaces", "must be a list with at least one part")
    return Tuple(tuple(_space(sub, f"{path}.{i}", depth - 1) for i, sub in enumerate(parts)))


_PARSERS: dict[str, Callable[[Any, str, int], Space]] = {
    "Box": _box,
    "Discrete": _discrete,
    "MultiDiscrete": _multi_discrete,
    "MultiBinary": _multi_binary,
    "Dict": _dict,
    "Tuple": _tuple,
}


def _integers(data: Any, path: str) -> None:
    """Check the `dtype` that Minari writes; the values travel as int64 or int8 whatever it is."""
    if "dtype" in data and DTYPES[dtype_of(data["dtype"], f"{path}.dtype")].floating:
        raise SpecError(f"{path}.dtype", f"must be an integer type, not {data['dtype']}")


def _start(data: Any, path: str, n: int) -> int:
    return integer(data, path, -MAX_INTEGER - 1, MAX_INTEGER - n + 1)


def _bounds(data: Any, path: str, dtype: str, shape: tuple[int, ...]) -> Bounds:
    if not isinstance(data, (list, tuple)):
        return _bound(data, path, dtype)
    found: list[Number] = []

    def walk(part: Any, where: str, rest: tuple[int, ...]) -> None:
        if not rest:
            found.append(_bound(part, where, dtype))
        elif not isinstance(part, (list, tuple)) or len(part) != rest[0]:
            raise SpecError(where, f"must be a list of {rest[0]}, as shape says, or one number")
        else:
            for index, one in enumerate(part):
                walk(one, f"{where}.{index}", rest[1:])

    walk(data, path, shape)
    return uniform(found)


def _bound(data: Any, path: str, dtype: str) -> Number:
    limits = DTYPES[dtype]
    if not limits.floating:
        return integer(data, path, int(limits.low), int(limits.high))
    if data in ("inf", "-inf"):
        return float(data)
    if type(data) not in (int, float) or data != data:
        hint = "; YAML takes 1e-3 for text: write 1.0e-3" if isinstance(data, str) else ""
        raise SpecError(path, f"must be a number, inf or -inf, not {shown(data)}{hint}")
    try:
        bound = float(data)
        limits.round(bound)
    except OverflowError:
        raise SpecError(path, f"{shown(data)} is beyond {dtype}: write inf or -inf") from None
    return bound
