"""What a user says about a policy's observation and action → the signature of its card."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from converters.artifact.card import ArtifactError
from policy_spec.checks import SpecError
from policy_spec.control import RANGES, Control
from policy_spec.leaves import Leaf, leaves
from policy_spec.parsing import parse_space
from policy_spec.signature import Signature, StateLeaf, driving_space, state_data
from policy_spec.spaces import Box, Dict, LeafSpace, Space, at, to_data, uniform
from policy_spec.validate import takes_images

VECTOR = "vector"
DRIVING = ("speed", "steering", "sensors")
MAPPINGS = {"layout": "Box", "table": "Discrete", "axes": "MultiDiscrete"}
"""What maps an action to a control, and the action space it is for."""

_FIELD = re.compile(r"([^:]+)(?::([1-9]\d{0,6}))?")


class Options(TypedDict, total=False):
    """What the user says about a policy. Every entry is optional.

    `name`, `description` and `metrics` (names to values) are for the card; `observations` is a file
    of recorded ones (.npy or .npz). `layout`, `table` or `axes`, and `scale`, are the card's
    `control`; `repeat` is its frame skip. `tell` gets each sentence that the user should read.
    """

    name: str | None
    description: str
    metrics: dict[str, Any] | None
    observations: Path | None
    layout: Sequence[str] | None
    table: Sequence[Any] | None
    axes: Any
    scale: str | None
    repeat: int | None
    tell: Callable[[str], None]


def teller(options: Options) -> Callable[[str], None]:
    """Return what tells the user a sentence."""
    return options.get("tell", lambda _: None)


def read_space(source: Path, data: Any, name: str) -> Space:
    """Check a space in the card's form; raise ArtifactError, which names the policy's file."""
    try:
        return parse_space(data, name)
    except SpecError as error:
        raise ArtifactError(f"{source}: {error}") from None


def card_fields(
    source: Path,
    observation: Space,
    action: Space,
    options: Options,
    state: Sequence[StateLeaf] = (),
) -> dict[str, Any]:
    """Return the card's fields for the signature; raise ArtifactError for a bad control."""
    data: dict[str, Any] = {
        "observation_space": to_data(observation),
        "action_space": to_data(action),
        "state": state_data(state),
    }
    given: dict[str, Any] = {
        name: value for name in MAPPINGS if (value := options.get(name)) is not None
    }
    flags = [f"--{name}" for name in given]
    scale, repeat = options.get("scale"), options.get("repeat")
    if len(given) > 1:
        raise ArtifactError(f"{' and '.join(flags)}: an action has one control, give one of them")
    if scale is not None and "layout" not in given:
        raise ArtifactError("--scale: it is for the elements that --layout names")
    for name, value in given.items():
        _check_kind(name, action)
        data["control"] = {name: list(value) if name == "layout" else value}
        data["control"] |= {} if scale is None else {"scale": scale}
    try:
        signature = Signature.from_card(data | ({} if repeat is None else {"repeat": repeat}))
    except SpecError as error:
        flag = "--scale" if error.path.startswith("control.scale") else "".join(flags)
        raise ArtifactError(": ".join(filter(None, (str(source), flag, str(error))))) from None
    return signature.to_data() | {"distribution": {}}


def _check_kind(name: str, action: Space) -> None:
    kind = type(action).__name__
    if kind != MAPPINGS[name]:
        wanted = [f"use --{flag}" for flag, of in MAPPINGS.items() if of == kind]
        advice = wanted[0] if wanted else "it has no control, and is answered as it is"
        raise ArtifactError(
            f"--{name}: it is for an action that is a {MAPPINGS[name]}, and this policy's is a "
            f"{kind}: {advice}"
        )


def named(source: Path, vector: Box, fields: Sequence[str], tell: Callable[[str], None]) -> Space:
    """Return the observation space of a flat vector whose elements `fields` names.

    A field is `NAME` (one number) or `NAME:WIDTH` (a list). The last field takes all numbers that
    are left if it has no width. `vector` alone keeps the Box. `speed,steering,sensors` get the
    ranges of the policies that come with the product, not the vector's own. Raises ArtifactError.
    """
    parts = _widths(source, fields, vector.size)
    if [name for name, _ in parts] == [VECTOR]:
        return vector
    found: list[tuple[str, Space]] = []
    begin = 0
    for name, width in parts:
        size = width or 1
        low, high = (
            uniform(at(side, begin + index) for index in range(size))
            for side in (vector.low, vector.high)
        )
        shape = () if width is None else (width,)
        found.append((name, Box(vector.dtype, shape, low, high)))
        begin += size
    sizes = tuple(width or 1 for _, width in parts)
    if tuple(name for name, _ in parts) == DRIVING and sizes[:2] == (1, 1):
        driving = driving_space(sizes[2])
        for name, part in found:
            _tell_of_bounds(name, part, driving.parts[name], tell)
        return driving
    return Dict(tuple(found))


def parse_fields(fields: Sequence[str]) -> list[tuple[str, int | None]]:
    """Return the fields' names and widths, None where there is none; raise ArtifactError."""
    parts: list[tuple[str, int | None]] = []
    for field in fields:
        match = _FIELD.fullmatch(field)
        if match is None:
            raise ArtifactError(f"--fields: {field!r} must be NAME or NAME:WIDTH, like sensors:5")
        parts.append((match[1], int(match[2]) if match[2] else None))
    if len({name for name, _ in parts}) < len(parts):
        raise ArtifactError(f"--fields {','.join(fields)}: each name must be there once")
    return parts


def _widths(source: Path, fields: Sequence[str], total: int) -> list[tuple[str, int | None]]:
    """Return the fields' names and widths; None is one number."""
    parts = parse_fields(fields)
    rest = total - sum(width or 1 for _, width in parts)
    name, width = parts[-1]
    if rest > 0 and width is None:
        parts[-1] = (name, 1 + rest)
    elif rest:
        raise ArtifactError(
            f"{source}: --fields {','.join(fields)} has {total - rest} numbers, and an observation "
            f"of it {total}"
        )
    return parts


def _tell_of_bounds(name: str, own: Space, taken: Space, tell: Callable[[str], None]) -> None:
    assert isinstance(own, Box)
    assert isinstance(taken, Box)
    if (own.low, own.high) not in ((taken.low, taken.high), (-math.inf, math.inf)):
        tell(
            f"{name}: its range is that of the policies that come with CarlaRL, "
            f"{range_text(taken)}; the policy's own space says {range_text(own)}"
        )


def range_text(space: LeafSpace) -> str:
    """Return a space's range for a person, like `0 to 200`; of up to four elements each one's."""
    pairs = [(at(space.low, index), at(space.high, index)) for index in range(space.size)]
    if len(set(pairs)) == 1 or len(pairs) <= 4:
        shown = pairs[:1] if len(set(pairs)) == 1 else pairs
        return ", ".join(f"{low:g} to {high:g}" for low, high in shown)
    lows, highs = zip(*pairs, strict=True)
    return f"{min(lows):g} to {max(highs):g}, each its own"


def described(signature: Signature) -> list[tuple[str, str, str, str, str]]:
    """Return a table for a person: part, name, type, range and unit of all that is in it."""
    rows = []
    observed = [("observation", leaf) for leaf in leaves(signature.observation_space)]
    acted = [("action", leaf) for leaf in leaves(signature.action_space)]
    for part, leaf in (*observed, *acted):
        space = leaf.space
        name, unit = ".".join(leaf.path), space.unit or ""
        if leaf.raster and not unit:
            colours = space.dtype == "uint8" and 3 in space.shape
            unit = space.description or ("channel order unknown" if colours else "")
        rows.append((part, name, _kind(leaf), range_text(space), unit))
    for held in signature.state:
        sizes = " × ".join(map(str, held.shape))
        rows.append(("state", held.name, f"{sizes} {held.dtype}", "0 at an episode's start", ""))
    if signature.repeat > 1:
        rows.append(("repeat", "", f"an action holds for {signature.repeat} steps", "", ""))
    if signature.control is None:
        return [*rows, ("control", "", "none: an action is answered as it is", "", "")]
    return rows + _described(signature.control)


def _kind(leaf: Leaf) -> str:
    space = leaf.space
    kind, sizes = type(space).__name__, " × ".join(map(str, space.shape))
    if takes_images(space):
        kind = "image"
    elif leaf.raster:
        kind = "raster"
    return f"{kind}, {sizes} {space.dtype}" if sizes else f"{kind}, one {space.dtype}"


def _described(control: Control) -> list[tuple[str, str, str, str, str]]:
    rows = []
    for index, name in enumerate(control.layout):
        how = {"linear": ", scaled", "clip": ", clipped"}.get(control.scale[index] or "", "")
        low, high = RANGES[name]
        rows.append(("control", name, f"element {index}{how}", f"{low:g} to {high:g}", ""))
    for index, row in enumerate(control.table):
        shown = ", ".join(f"{name} {value:g}" for name, value in row) or "nothing"
        rows.append(("control", f"value {index}", shown, "", ""))
    for index, (name, values) in enumerate(control.axes):
        shown = ", ".join(f"{value:g}" for value in values)
        rows.append(("control", name, f"branch {index}: {shown}", "", ""))
    return rows
