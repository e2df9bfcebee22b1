"""The spaces that `/metadata` describes: what travels as bytes, and what an action must be."""

from __future__ import annotations

import math
from typing import Any, Mapping, NamedTuple

from carlarl_client.errors import BadAnswer

Space = Mapping[str, Any]
"""A space as `/metadata` has it; empty where it is not known."""
BINARY_ELEMENTS = 64
"""A Box with more elements than these may be sent as bytes."""


class Described(NamedTuple):
    """What the service says of its active version.

    `action` is the policy's own action space: None from an older gateway, which has no policies
    without control.
    """

    version: str
    observation: Space
    action: Space | None
    control: bool

    @classmethod
    def by(cls, metadata: dict[str, Any]) -> Described:
        """Read `/metadata`. Raises BadAnswer where it does not say what is served."""
        version, observation = metadata.get("version"), metadata.get("observationSpace", {})
        action = metadata.get("policyActionSpace")
        if not (type(version) is str and type(observation) is dict and type(action) in KINDS):
            raise BadAnswer("the service does not describe its policy", status=200)
        control = action is None or metadata.get("control") is not None
        return cls(version, observation, action, control)


KINDS = (dict, type(None))


def is_large(value: Any) -> bool:
    """Whether a value is an array of numpy that may be sent as bytes."""
    return hasattr(value, "astype") and value.size > BINARY_ELEMENTS


def packed(value: Any, space: Space) -> Any:
    """Return an observation with bytes in the place of its large arrays, where these are a Box.

    Floats become the Box's own; what would have to be rounded to integers stays as it is.
    """
    kind = space.get("type")
    if kind == "Dict" and isinstance(value, Mapping):
        parts = space["subspaces"]
        return {key: packed(part, parts.get(key, {})) for key, part in value.items()}
    if kind == "Tuple" and isinstance(value, (list, tuple)):
        parts = dict(enumerate(space["subspaces"]))
        return [packed(part, parts.get(index, {})) for index, part in enumerate(value)]
    if kind == "Box" and is_large(value) and list(value.shape) == space["shape"]:
        name = space["dtype"].rstrip("0123456789")
        form = f"<{name[0]}{int(space['dtype'][len(name) :]) // 8}"
        if value.dtype == form or (value.dtype.kind == "f" and name == "float"):
            return value.astype(form).tobytes()
    return value


def shape_of(space: Space) -> list[int]:
    """Return the shape of a space without parts."""
    kind = space["type"]
    if kind == "Discrete":
        return []
    if kind == "MultiDiscrete":
        return [len(space["nvec"])]
    if kind == "MultiBinary":
        return space["n"] if isinstance(space["n"], list) else [space["n"]]
    shape: list[int] = space["shape"]
    return shape


def own_action(value: Any, space: Space | None) -> Any:
    """Check an action in the policy's own space, in JSON form; without a space, its form alone.

    Raises ValueError or TypeError where it is none.
    """
    if space is None:
        return _plain(value)
    kind, low, high = space["type"], space.get("low"), space.get("high")
    if kind == "Discrete":
        low, high = space["start"], space["start"] + space["n"] - 1
    elif kind == "MultiDiscrete":
        low = space["start"]
        high = [start + n - 1 for start, n in zip(low, space["nvec"])]
    elif kind == "MultiBinary":
        low, high = 0, 1
    whole = not space.get("dtype", "int8").startswith("float")
    return _within(value, shape_of(space), low, high, whole)


def _within(value: Any, shape: list[int], low: Any, high: Any, whole: bool) -> Any:
    if not shape:
        number(value, float(low), float(high), whole)
        return value
    if type(value) is not list or len(value) != shape[0]:
        raise ValueError(f"{value!r} is no list of {shape[0]}")
    for index, part in enumerate(value):
        least, most = (end[index] if isinstance(end, list) else end for end in (low, high))
        _within(part, shape[1:], least, most, whole)
    return value


def _plain(value: Any) -> Any:
    if type(value) is list:
        return [_plain(part) for part in value]
    number(value, -math.inf, math.inf)
    return value


def number(value: Any, low: float, high: float, whole: bool = False) -> float:
    """Check a number and return it. Raises ValueError out of range, TypeError for another type.

    A bound admits its own rounding to float32.
    """
    if type(value) is not int and (whole or type(value) is not float):
        raise TypeError(f"{value!r} is no {'integer' if whole else 'number'}")
    if not low - abs(low) * 1e-7 <= value <= high + abs(high) * 1e-7 or math.isinf(value):
        raise ValueError(f"{value!r} is not within {low:g} and {high:g}")
    return float(value)
