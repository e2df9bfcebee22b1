"""Checks of a card's plain data. All raise SpecError, which names the field."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from policy_spec.dtypes import DTYPES

MAX_INTEGER = 2**63 - 1
MAX_DIMENSIONS = 8
MAX_ELEMENTS = 1 << 24
"""Elements of one leaf."""


class SpecError(ValueError):
    """A signature is not a possible one. The text names the field and says what it must be."""

    def __init__(self, path: str, message: str) -> None:
        """Say what is wrong with the field at `path`."""
        super().__init__(f"{path}: {message}")
        self.path = path


def fields(data: Any, path: str, required: Iterable[str], optional: Iterable[str] = ()) -> Any:
    """Check the keys of a mapping and return it; raise SpecError."""
    if not isinstance(data, Mapping):
        raise SpecError(path, f"must be a mapping, not {shown(data)}")
    for key in required:
        if key not in data:
            raise SpecError(path, f"{key} is missing")
    for key in data:
        if key not in (*required, *optional):
            known = ", ".join((*required, *optional))
            raise SpecError(path, f"{shown(key)} is no field of it; known are {known}")
    return data


def integer(data: Any, path: str, low: int, high: int = MAX_INTEGER) -> int:
    """Check an integer and return it; raise SpecError."""
    if type(data) is not int or not low <= data <= high:
        raise SpecError(path, f"must be an integer from {low} to {high}, not {shown(data)}")
    return data


def text(data: Any, path: str) -> str:
    """Check text and return it; raise SpecError, for a lone surrogate, too."""
    if not isinstance(data, str):
        raise SpecError(path, f"must be text, not {shown(data)}; write it in quotes")
    try:
        data.encode()
    except UnicodeEncodeError:
        raise SpecError(path, f"is no valid Unicode: {shown(data)}") from None
    return data


def shape_of(data: Any, path: str) -> tuple[int, ...]:
    """Check a shape and return it; raise SpecError."""
    if not isinstance(data, (list, tuple)):
        raise SpecError(path, f"must be a list of lengths, [] for one number, not {shown(data)}")
    if len(data) > MAX_DIMENSIONS:
        raise SpecError(path, f"must have {MAX_DIMENSIONS} dimensions at most")
    shape = tuple(integer(one, f"{path}.{i}", 1, MAX_ELEMENTS) for i, one in enumerate(data))
    if math.prod(shape) > MAX_ELEMENTS:
        raise SpecError(path, f"must have {MAX_ELEMENTS} elements at most")
    return shape


def dtype_of(data: Any, path: str) -> str:
    """Check the name of a data type and return it; raise SpecError."""
    if not isinstance(data, str) or data not in DTYPES:
        hint = "; zeros and ones are a MultiBinary" if data == "bool" else ""
        raise SpecError(path, f"must be one of {', '.join(DTYPES)}, not {shown(data)}{hint}")
    return data


def shown(data: Any) -> str:
    """Return a short text of a value, for a message."""
    said = ascii(data)
    return said if len(said) <= 60 else f"{said[:57]}..."
