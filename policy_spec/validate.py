"""Observations and actions in their JSON form: checked, packed into bytes, and back.

This is the slow, exact reference. In msgpack, bytes take the place of base64.
"""

from __future__ import annotations

import binascii
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from policy_spec.dtypes import Number
from policy_spec.images import FORMATS, fault
from policy_spec.leaves import BINARY_ELEMENTS, Path, json_path, tensor_name
from policy_spec.spaces import Box, Dict, LeafSpace, Space, Tuple, at, nest

MAX_NUMBERS = 262_144
"""Numbers in nested lists that one request may have; more need bytes."""
MAX_LIST = 65_536
"""Numbers in nested lists of a leaf that may be sent as bytes: they are read in 20 ms."""

_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_NAMES = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    bytes: "bytes",
    type(None): "null",
    list: "array",
    tuple: "array",
    dict: "object",
}


class Problem(NamedTuple):
    """One field that is not what it must be, in the form of a `VALIDATION_ERROR`."""

    field: str
    message: str
    type: str


class InvalidError(ValueError):
    """A value is not one of a space. `problems` has the reasons."""

    def __init__(self, problems: list[Problem]) -> None:
        """Keep the problems, at least one."""
        super().__init__("; ".join(f"{one.field}: {one.message}" for one in problems))
        self.problems = problems


@dataclass(frozen=True)
class Image:
    """An encoded image instead of a leaf's bytes. Its header fits; its pixels may be broken."""

    content: bytes


def takes_bytes(space: LeafSpace) -> bool:
    """Return whether a leaf may be sent as bytes."""
    return isinstance(space, Box) and space.size > BINARY_ELEMENTS


def takes_lists(space: LeafSpace) -> bool:
    """Return whether a leaf may be sent as nested lists."""
    return space.size <= (MAX_LIST if takes_bytes(space) else MAX_NUMBERS)


def takes_images(space: LeafSpace) -> bool:
    """Return whether a leaf may be sent as an encoded image."""
    shape = space.shape
    planes = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))
    return isinstance(space, Box) and space.dtype == "uint8" and planes


def check(space: Space, value: Any, path: str = "observation") -> list[Problem]:
    """Return what is wrong with a value, the first problem of each leaf; `path` is its own."""
    return _Reader(path).read(space, value).problems


def pack(space: Space, value: Any, path: str = "observation") -> dict[str, bytes | Image]:
    """Return each leaf's little-endian row-major bytes, by the name of its tensor.

    An image that was sent encoded stays so. Raises InvalidError.
    """
    reader = _Reader(path).read(space, value)
    if reader.problems:
        raise InvalidError(reader.problems)
    return reader.tensors


def unpack(
    space: Space,
    row: Mapping[str, bytes],
    binary: Literal["lists", "base64", "bytes"] = "lists",
) -> Any:
    """Return the JSON form, given the bytes of each leaf's tensor.

    `binary` says how a Box with more than `BINARY_ELEMENTS` elements is written.
    """

    def one(part: Space, path: Path) -> Any:
        if isinstance(part, Dict):
            return {key: one(sub, (*path, key)) for key, sub in part.subspaces}
        if isinstance(part, Tuple):
            return [one(sub, (*path, str(i))) for i, sub in enumerate(part.subspaces)]
        content = row[tensor_name(path)]
        if binary == "lists" or not takes_bytes(part):
            return nest(part.element.unpack(content), part.shape)
        return (
            content if binary == "bytes" else binascii.b2a_base64(content, newline=False).decode()
        )

    return one(space, ())


class _WrongError(Exception):
    """The first problem of a leaf: below its path, what, and of which type."""


class _Reader:
    """Reads one value. `problems` and `tensors` are what it found."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.problems: list[Problem] = []
        self.tensors: dict[str, bytes | Image] = {}

    def read(self, space: Space, value: Any, path: Path = ()) -> _Reader:
        if isinstance(space, Dict):
            self._object(space, value, path)
        elif isinstance(space, Tuple):
            self._array(space, value, path)
        else:
            try:
                self.tensors[tensor_name(path)] = _leaf(space, value)
            except _WrongError as wrong:
                below, message, kind = wrong.args
                self._add((*path, *below), message, kind)
        return self

    def _add(self, path: Path, message: str, kind: str) -> None:
        self.problems.append(Problem(json_path(self.prefix, path), message, kind))

    def _object(self, space: Dict, value: Any, path: Path) -> None:
        if not isinstance(value, dict):
            self._add(path, f"Expected `object`, got `{_named(value)}`", "model_type")
            return
        for key, part in space.subspaces:
            if key in value:
                self.read(part, value[key], (*path, key))
            else:
                self._add((*path, key), "Field required", "missing")
        for key in value:
            if key not in space.parts:
                self._add((*path, str(key)), "There is no such field", "extra_forbidden")

    def _array(self, space: Tuple, value: Any, path: Path) -> None:
        try:
            _length(value, len(space.subspaces), ())
        except _WrongError as wrong:
            self._add(path, *wrong.args[1:])
            return
        for index, part in enumerate(space.subspaces):
            self.read(part, value[index], (*path, str(index)))


def _leaf(space: LeafSpace, value: Any) -> bytes | Image:
    if takes_bytes(space) and isinstance(value, (str, bytes)):
        return _binary(space, value)
    if takes_images(space) and isinstance(value, dict):
        return _image(space, value)
    if len(space.shape) and not takes_lists(space):
        most = MAX_LIST if takes_bytes(space) else MAX_NUMBERS
        raise _WrongError((), f"Expected bytes: it has more than {most} numbers", "too_long")
    numbers: list[Number] = []
    low, high = space.limits()

    def walk(part: Any, path: Path, rest: tuple[int, ...]) -> None:
        if rest:
            _length(part, rest[0], path)
            for index, one in enumerate(part):
                walk(one, (*path, str(index)), rest[1:])
        else:
            index = len(numbers)
            numbers.append(_number(part, path, space, at(low, index), at(high, index)))

    walk(value, (), space.shape)
    return space.element.pack(numbers)


def _number(value: Any, path: Path, space: LeafSpace, low: Number, high: Number) -> Number:
    kind = "float" if space.element.floating else "int"
    if type(value) is not int and not (kind == "float" and type(value) is float):
        raise _WrongError(path, f"Expected `{kind}`, got `{_named(value)}`", f"{kind}_type")
    if isinstance(value, float) and not math.isfinite(value):
        raise _WrongError(path, "Number out of range", "finite_number")
    if value < low:
        raise _WrongError(path, f"Expected `{kind}` >= {low}", "greater_than_equal")
    if value > high:
        raise _WrongError(path, f"Expected `{kind}` <= {high}", "less_than_equal")
    number: Number = value
    return number


def _length(value: Any, length: int, path: Path) -> None:
    if not isinstance(value, (list, tuple)):
        raise _WrongError(path, f"Expected `array`, got `{_named(value)}`", "list_type")
    if len(value) != length:
        raise _WrongError(path, f"Expected `array` of length {length}", "wrong_length")


def _binary(space: LeafSpace, value: str | bytes) -> bytes:
    content = _decoded(value, ())
    expected = space.size * space.element.itemsize
    if len(content) != expected:
        kind = "too_short" if len(content) < expected else "too_long"
        raise _WrongError((), f"Expected {expected} bytes, got {len(content)}", kind)
    low, high = space.limits()
    if not space.element.floating and (low, high) == (space.element.low, space.element.high):
        return content
    numbers = space.element.unpack(content)
    if not isinstance(low, tuple) and not isinstance(high, tuple):
        least, most = low, high
        if all(least <= number <= most for number in numbers):  # NaN is not
            return content
    for index, number in enumerate(numbers):
        path = tuple(str(i) for i in _place(index, space.shape))
        _number(number, path, space, at(low, index), at(high, index))
    return content


def _place(index: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    place = []
    for width in reversed(shape):
        index, rest = divmod(index, width)
        place.append(rest)
    return tuple(reversed(place))


def _image(space: LeafSpace, value: dict[Any, Any]) -> Image:
    if len(value) != 1 or (format := next(iter(value))) not in FORMATS:
        raise _WrongError((), f"Expected one of the fields {', '.join(FORMATS)}", "model_type")
    if not isinstance(value[format], (str, bytes)):
        said = f"Expected `bytes`, got `{_named(value[format])}`"
        raise _WrongError((format,), said, "bytes_type")
    content = _decoded(value[format], (format,))
    if (wrong := fault(space.shape, content, format)) is not None:
        raise _WrongError((), wrong, "image_invalid")
    return Image(content)


def _decoded(value: str | bytes, path: Path) -> bytes:
    if isinstance(value, bytes):
        return value
    if not _BASE64.fullmatch(value):
        raise _WrongError(path, "Invalid base64 encoded string", "invalid_value")
    return binascii.a2b_base64(value)


def _named(value: Any) -> str:
    return _NAMES.get(type(value), type(value).__name__)
