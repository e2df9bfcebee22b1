"""The state of a policy among the inputs and the outputs of an ONNX model."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from converters.artifact.card import ArtifactError
from converters.importers.declared import Declared
from converters.importers.onnx_inputs import Route
from policy_spec.signature import StateLeaf

_SIDE = r"next|new|prev|old|init|initial|in|out"
_AFFIXES = re.compile(rf"^(({_SIDE})[._])+|([._]?({_SIDE}|0|n))+$")
"""What tells the state before a step from that after it: `h_in`, `h0`, `next_h`, `hn`."""


def of_inputs(inputs: Sequence[onnx.ValueInfoProto], declared: Declared) -> dict[int, Route]:
    """Return the places of the inputs that take the state, and a route for each.

    An input with the name of a part takes it, see `_AFFIXES`; where none has, the last ones take
    all parts, in order. Raises ArtifactError for one of another shape or type.
    """
    places = _places(declared.source, inputs, declared.state, "takes", "input")
    first = len(declared.taken) - len(declared.state)
    found = {}
    for source, (place, leaf) in enumerate(zip(places, declared.state, strict=True), first):
        one = inputs[place]
        _check_type(declared.source, one, leaf, "input")
        second = _batch_is_second(declared.source, one, leaf)
        found[place] = Route(source, getattr(torch, leaf.dtype), second=second, plain=not second)
    return found


def of_outputs(outputs: Sequence[onnx.ValueInfoProto], declared: Declared) -> list[int]:
    """Return the places of the outputs with the parts of the next state, as `of_inputs` does."""
    places = _places(declared.source, outputs, declared.state, "gives", "output")
    for place, leaf in zip(places, declared.state, strict=True):
        _check_type(declared.source, outputs[place], leaf, "output")
    return places


def _places(
    path: Path,
    given: Sequence[onnx.ValueInfoProto],
    state: Sequence[StateLeaf],
    does: str,
    kind: str,
) -> list[int]:
    names = [one.name for one in given]
    parts, shown = ", ".join(leaf.name for leaf in state), ", ".join(names)
    if len(names) <= len(state):
        raise ArtifactError(
            f"{path}: it {does} {shown}, and with the state {parts} that --spec declares, it needs "
            f"{len(state) + 1} {kind}s or more: export it with each part of the state"
        )
    found = [_place(names, leaf) for leaf in state]
    if all(one is None for one in found):
        return list(range(len(names) - len(state), len(names)))
    named = [one for one in found if one is not None]
    if len({*named}) < len(state):
        raise ArtifactError(
            f"{path}: it {does} {shown}, and its state is {parts}: name each part as its {kind}, "
            "or none, which are the last ones then, in order"
        )
    return named


def _place(names: Sequence[str], leaf: StateLeaf) -> int | None:
    """Return where a part of the state is among inputs or outputs, by their names."""
    own = {name.lower() for name in (leaf.name, leaf.tensor, leaf.next_tensor)}
    exact = [place for place, name in enumerate(names) if name.lower() in own]
    alike = [place for place, name in enumerate(names) if _stem(name) == _stem(leaf.name)]
    return next((found[0] for found in (exact, alike) if len(found) == 1), None)


def _stem(name: str) -> str:
    plain = re.sub(r"^(next_)?state\.", "", name.lower())
    return _AFFIXES.sub("", plain) or plain


def _check_type(path: Path, one: onnx.ValueInfoProto, leaf: StateLeaf, kind: str) -> None:
    held = one.type.tensor_type.elem_type
    if helper.np_dtype_to_tensor_dtype(np.dtype(leaf.dtype)) != held:
        name = TensorProto.DataType.Name(held).lower()
        raise ArtifactError(
            f"{path}: its {kind} {one.name} is {name}, and --spec declares {leaf.name} of its "
            f"state as {leaf.dtype}: declare the model's own type"
        )


def _batch_is_second(path: Path, one: onnx.ValueInfoProto, leaf: StateLeaf) -> bool:
    """Whether the rows are an input's second dimension, as a recurrent layer has them."""
    sizes = [dim.dim_value or -1 for dim in one.type.tensor_type.shape.dim]
    first, second = (
        len(rest) == len(leaf.shape)
        and all(size in (-1, own) for size, own in zip(rest, leaf.shape, strict=True))
        for rest in (sizes[1:], [*sizes[:1], *sizes[2:]])
    )
    second &= len(sizes) > 2 and sizes[0] > 0
    if not first and not second:
        shown = ", ".join("n" if size < 0 else str(size) for size in sizes)
        raise ArtifactError(
            f"{path}: its input {one.name} has the shape ({shown}), and --spec declares "
            f"{leaf.name} of its state as {list(leaf.shape)} for each row"
        )
    return second
