"""Observations of a space: the types that decode them, and the bytes that travel to Triton."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from operator import le
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gateway.api.errors import ValidationFailed
from gateway.api.images import Data, EncodedImage, gathered, image_type
from gateway.api.messages import MAX_OBSERVATIONS
from gateway.api.problems import MAX_SAID
from policy_spec.leaves import Layout, Leaf, Path, json_path
from policy_spec.spaces import Bounds, Dict, LeafSpace, Space, Tuple
from policy_spec.validate import (
    MAX_NUMBERS,
    InvalidError,
    check,
    pack,
    takes_bytes,
    takes_images,
    takes_lists,
)

Packed = tuple[bytes, tuple[Data, ...]]
"""For all rows behind each other: the packed float32 leaves, and each leaf that travels apart."""

MAX_PROBLEMS = 100
"""Problems of one request that are listed."""


class Observations:
    """What decodes and packs observations of one space.

    `type` is what msgspec decodes them with. msgspec takes no key with `"`, `\\` or a control
    character: then `type` is `Any`, and `policy_spec.validate` reads the observations, slowly.
    """

    def __init__(self, space: Space) -> None:
        """Build the types, and an expression that gives the packed numbers of a row."""
        self._space = space
        self._layout = layout = Layout.of(space)
        self.type = Any if _odd(space) else _type(space)
        names: dict[str, Any] = {}
        parts = []
        for number, slot in enumerate(layout.packed):
            access = _access(space, slot.leaf.path)
            if slot.leaf.space.shape and (_plain(slot.leaf)):
                parts.append(f"*{access}")
            elif slot.leaf.space.shape:
                names[f"read{number}"] = _reader(slot.leaf)
                parts.append(f"*read{number}({access})")
            else:
                parts.append(access)
        row = f"({', '.join(parts)},)" if parts else "()"
        self._numbers: Callable[[Sequence[Any]], list[float]] = eval(
            f"lambda rows: [value for one in rows for value in {row}]", names
        )
        self._apart = [_gatherer(_getter(space, leaf.path), leaf) for leaf in layout.apart]
        found = [slot.leaf for slot in layout.packed] + list(layout.apart)
        lists = [leaf for leaf in found if leaf.space.shape]
        self._lists = [(leaf, _getter(space, leaf.path)) for leaf in lists]
        self._list_numbers = sum(leaf.space.size for leaf in lists)
        few = self._list_numbers * MAX_OBSERVATIONS <= MAX_NUMBERS
        self.pack: Callable[..., Packed] = self._pack_any
        """Return the bytes of decoded observations; `step=True` for the one of a step.

        `first` is the index of the first of them in its request. Raises ValidationFailed for what
        msgspec does not check: bounds of single elements, and numbers that were sent as bytes.
        """
        if self.type is Any:
            self.pack, self._lists = self._pack_slowly, []
        elif few and not self._apart and not any(_needs_check(leaf.space) for leaf in found):
            self.pack = self._pack_plain

    def _pack_plain(self, rows: Sequence[Any], step: bool = False, first: int = 0) -> Packed:
        """Pack where msgspec has checked all, and all numbers are packed: the usual case."""
        return array("f", self._numbers(rows)).tobytes(), ()

    def _pack_any(self, rows: Sequence[Any], step: bool = False, first: int = 0) -> Packed:
        if len(rows) * self._list_numbers > MAX_NUMBERS:
            check_count(self.count(rows), step)
        try:
            packed = array("f", self._numbers(rows)).tobytes()
            return packed, tuple(gather(rows) for gather in self._apart)
        except _OutOfBoundsError:
            raise ValidationFailed(list(self._problems(rows, step, first))) from None

    def count(self, rows: Sequence[Any]) -> int:
        """Return how many numbers came in nested lists."""
        return sum(
            leaf.space.size * sum(type(get(one)) in (tuple, list) for one in rows)
            for leaf, get in self._lists
        )

    def _problems(self, rows: Sequence[Any], step: bool, first: int) -> Iterator[dict[str, str]]:
        """Find what is wrong, by the exact reference."""
        leaves = [slot.leaf for slot in self._layout.packed] + list(self._layout.apart)
        checked = [
            (leaf, _getter(self._space, leaf.path)) for leaf in leaves if _needs_check(leaf.space)
        ]
        left = MAX_PROBLEMS
        for index, one in enumerate(rows, first):
            for leaf, get in checked:
                path, value = json_path(place(index, step), leaf.path), get(one)
                found = [] if isinstance(value, EncodedImage) else check(leaf.space, value, path)
                for problem in found[:left]:
                    left -= 1
                    yield problem._asdict()

    def _pack_slowly(self, rows: Sequence[Any], step: bool = False, first: int = 0) -> Packed:
        packed, apart = [], []
        for index, one in enumerate(rows, first):
            try:
                found = pack(self._space, one, place(index, step))
            except InvalidError as error:
                found_wrong = error.problems[:MAX_PROBLEMS]
                raise ValidationFailed(
                    [
                        {name: text[:MAX_SAID] for name, text in problem._asdict().items()}
                        for problem in found_wrong
                    ]
                ) from None
            numbers: Any = [found[slot.leaf.name] for slot in self._layout.packed]
            packed.append(b"".join(numbers))
            apart.append([found[leaf.name] for leaf in self._layout.apart])
        return b"".join(packed), tuple(map(gathered, zip(*apart, strict=True)))


def check_count(numbers: int, step: bool = False) -> None:
    """Refuse more numbers in nested lists than a request may have. Raises ValidationFailed."""
    if numbers > MAX_NUMBERS:
        message = f"Expected bytes: {numbers} numbers are more than {MAX_NUMBERS}"
        field = "observation" if step else "observations"
        raise ValidationFailed([{"field": field, "message": message, "type": "too_long"}])


class _OutOfBoundsError(Exception):
    """Some number is not within its bounds."""


def place(index: int, step: bool) -> str:
    """Return the path of a request's observation, or of a step's."""
    return "observation" if step else f"observations.{index}"


def _type(space: Space) -> Any:
    """Return the type that msgspec decodes a space with: a struct for a Dict.

    Its fields are `f0`, `f1` and so on, since a key need not be a name in Python.
    """
    if isinstance(space, Dict):
        return msgspec.defstruct(
            "Observation",
            [(f"f{index}", _type(part)) for index, (_, part) in enumerate(space.subspaces)],
            rename={f"f{index}": key for index, (key, _) in enumerate(space.subspaces)},
            forbid_unknown_fields=True,
            gc=False,
        )
    if isinstance(space, Tuple):
        return tuple[tuple(map(_type, space.subspaces))]  # type: ignore[misc]
    low, high = space.limits()
    number: Any = float if space.element.floating else int
    kind: Any = Annotated[number, Meta(ge=_end(low, min), le=_end(high, max))]
    for width in reversed(space.shape):
        if not takes_bytes(space):  # a tuple ends at the first element too many
            kind = tuple[(kind,) * width]  # type: ignore[misc]
        else:  # beside bytes of a fixed length, msgspec 0.22 reads a wrong length
            kind = Annotated[list[kind], Meta(min_length=width, max_length=width)]
    if takes_bytes(space):
        length = space.size * space.element.itemsize
        content = Annotated[bytes, Meta(min_length=length, max_length=length)]
        kind = content | kind if takes_lists(space) else content
    return kind | image_type(space) if takes_images(space) else kind


def _odd(space: Space) -> bool:
    """Whether a key is one that msgspec can't name a field."""
    if isinstance(space, Dict):
        return any(
            _odd(part) or any(letter in '"\\' or letter < " " for letter in key)
            for key, part in space.subspaces
        )
    return isinstance(space, Tuple) and any(map(_odd, space.subspaces))


def _access(space: Space, path: Path) -> str:
    """Return the expression that gives a leaf of the observation `one`."""
    access = "one"
    for key in path:
        if isinstance(space, Dict):
            access += f".f{list(space.parts).index(key)}"
            space = space.parts[key]
        elif isinstance(space, Tuple):
            access += f"[{int(key)}]"
            space = space.subspaces[int(key)]
    return access


def _getter(space: Space, path: Path) -> Callable[[Any], Any]:
    getter: Callable[[Any], Any] = eval(f"lambda one: {_access(space, path)}")
    return getter


def _needs_check(space: LeafSpace) -> bool:
    """Whether there is something to check that msgspec does not."""
    if isinstance(space.low, tuple) or isinstance(space.high, tuple):
        return True
    whole = (space.low, space.high) == (space.element.low, space.element.high)
    return takes_bytes(space) and (space.element.floating or not whole)


def _plain(leaf: Leaf) -> bool:
    """Whether a leaf is a list of numbers as it was decoded, and all is checked."""
    space = leaf.space
    return len(space.shape) == 1 and not takes_bytes(space) and not _needs_check(space)


def _reader(leaf: Leaf) -> Callable[[Any], Sequence[Any]]:
    """Return what gives a leaf's numbers, row-major, and checks them."""
    space = leaf.space
    unpack = space.element.unpack
    nested = len(space.shape) - 1
    checked = _needs_check(space)
    low, high = (bound if isinstance(bound, tuple) else repeat(bound) for bound in space.limits())

    def read(value: Any) -> Sequence[Any]:
        if type(value) is bytes:
            value = unpack(value)
        else:
            for _ in range(nested):
                value = chain.from_iterable(value)
            value = tuple(value)
        # NaN is neither more nor less than a bound, and so it is found.
        if checked and not (all(map(le, low, value)) and all(map(le, value, high))):
            raise _OutOfBoundsError
        return value  # type: ignore[no-any-return]

    return read


def _gatherer(get: Callable[[Any], Any], leaf: Leaf) -> Callable[[Sequence[Any]], Data]:
    """Return what gives the bytes of a leaf that travels apart, for all rows."""
    pack = _packer(leaf)
    if not takes_images(leaf.space):
        return lambda rows: b"".join([pack(get(one)) for one in rows])

    def gather(rows: Sequence[Any]) -> Data:
        values = map(get, rows)
        return gathered([one if isinstance(one, EncodedImage) else pack(one) for one in values])

    return gather


def _packer(leaf: Leaf) -> Callable[[Any], bytes]:
    """Return what gives the bytes of a leaf that travels apart."""
    element = leaf.space.element
    if not leaf.space.shape:
        return lambda value: element.pack((value,))
    read = _reader(leaf)
    if _needs_check(leaf.space):
        low, high = leaf.space.limits()
        good = b""
        if leaf.space.dtype == "uint8" and isinstance(low, int) and isinstance(high, int):
            good = bytes(range(low, high + 1))

        def pack_checked(value: Any) -> bytes:
            if type(value) is bytes and good and not value.translate(None, good):
                return value  # as fast as it is copied
            numbers = read(value)
            return value if type(value) is bytes else element.pack(numbers)

        return pack_checked
    return lambda value: value if type(value) is bytes else element.pack(read(value))


def _end(bounds: Bounds, choose: Any) -> Any:
    return choose(bounds) if isinstance(bounds, tuple) else bounds
