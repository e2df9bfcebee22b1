"""What the inputs of an ONNX model are given: features, parts of them, and rasters."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice, permutations
from math import prod
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from converters.importers.declared import Declared
from converters.importers.observed import value
from policy_spec.graph import choices, feature_columns, feature_width
from policy_spec.leaves import Leaf, leaves
from policy_spec.spaces import LeafSpace

MOST_ORDERS = 720
"""Orders of the inputs that are tried."""
CHANNELS = (1, 3, 4)
"""The last dimension of an image whose channels may go to the front."""
FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16}
_INTEGERS = {TensorProto.INT64, TensorProto.INT32, TensorProto.INT8, TensorProto.UINT8}


@dataclass(frozen=True)
class Route:
    """How one input is made of what a program is given.

    Attributes:
        source: which of these it is.
        dtype: it is cast to this.
        columns: the features that it takes, (start, stop); None for all, and for a raster.
        values: what these are, if it takes values and no one-hot codes.
        turned: whether a raster's channels go to the front.
        scaled: whether it is divided by 255.
        shape: of a row, if it is given another one.
        plain: whether nothing is done at all.
        note: what the user should know; else empty.
    """

    source: int
    dtype: torch.dtype
    columns: tuple[int, int] | None = None
    values: LeafSpace | None = None
    turned: bool = False
    scaled: bool = False
    shape: tuple[int, ...] | None = None
    plain: bool = False
    note: str = ""

    def __call__(self, *given: Tensor) -> Tensor:
        """Return the input."""
        made = given[self.source]
        if self.columns is not None:
            made = made[:, self.columns[0] : self.columns[1]]
        if self.values is not None:
            made = value(self.values, made)
        if self.turned:
            made = made.permute(0, 3, 1, 2)
        if self.shape is not None:
            made = made.reshape(-1, *self.shape)
        made = made.to(self.dtype)
        return made / 255 if self.scaled else made


class Routed(nn.Module):
    """An ONNX model that takes what a program does."""

    def __init__(self, network: nn.Module, routes: Sequence[Route]) -> None:
        """Take the model, and a route for each of its inputs."""
        super().__init__()
        self.network, self.routes = network, tuple(routes)

    def forward(self, *given: Tensor) -> Any:
        """Compute the model."""
        return self.network(*(route(*given) for route in self.routes))


class _Target:
    """An input of a model: its shape without the batch, -1 where it is open, and its type."""

    def __init__(self, one: onnx.ValueInfoProto) -> None:
        tensor = one.type.tensor_type
        dims = [dim.dim_value if dim.dim_value > 0 else -1 for dim in tensor.shape.dim]
        self.name, self.kind, self.batched = one.name, tensor.elem_type, bool(dims)
        self.shape = tuple(dims[1:])

    def takes(self, *shape: int) -> bool:
        """Whether rows of this shape go in as they are."""
        return len(shape) == len(self.shape) and all(
            theirs in (-1, own) for own, theirs in zip(shape, self.shape, strict=True)
        )

    def holds(self, size: int) -> bool:
        """Whether rows of so many elements go in, if they get its shape."""
        return -1 not in self.shape and prod(self.shape) == size

    def route(self, source: int, **how: Any) -> Route:
        name = helper.tensor_dtype_to_np_dtype(self.kind).name
        return Route(source, getattr(torch, name), **how)


def routes(
    inputs: Sequence[onnx.ValueInfoProto], declared: Declared, scale: bool
) -> list[Route] | None:
    """Return a route for each input, or None if an observation does not fit them.

    If `scale`, inputs of floats take uint8 images from 0 to 1.

    Inputs with the names of all leaves take these. Else they take the features and the rasters,
    whatever they are called.
    """
    targets = [_Target(one) for one in inputs]
    if not all(one.batched and one.kind in FLOATS | _INTEGERS for one in targets):
        return None
    found: dict[str, Leaf] = {}
    for leaf in leaves(declared.observation):
        found |= {leaf.name: leaf, ".".join(leaf.path): leaf}
    if {found.get(one.name) for one in targets} == set(found.values()):
        made = [_named(one, found[one.name], declared, scale) for one in targets]
        if None not in made:
            return [one for one in made if one is not None]
    features: list[Leaf | None] = [None] if declared.features else []
    given = features + list(declared.rasters)
    if len(given) != len(targets):
        return None
    for order in islice(permutations(range(len(given))), MOST_ORDERS):
        pairs = zip(targets, order, strict=True)
        made = [_whole(target, index, given[index], declared, scale) for target, index in pairs]
        if None not in made:
            moved = order != tuple(range(len(given)))
            fitting = [one for one in made if one is not None]
            return [replace(one, plain=one.plain and not moved) for one in fitting]
    return None


def _whole(
    target: _Target, source: int, leaf: Leaf | None, declared: Declared, scale: bool
) -> Route | None:
    """Return how all features, or a raster, go into an input; None if they do not."""
    if leaf is not None:
        return _raster(target, source, leaf, scale)
    if target.kind not in FLOATS:
        return None
    if target.takes(declared.features):
        return target.route(source, plain=target.kind == TensorProto.FLOAT)
    if target.holds(declared.features):
        return target.route(source, shape=target.shape)
    return None


def _raster(target: _Target, source: int, leaf: Leaf, scale: bool) -> Route | None:
    own = helper.np_dtype_to_tensor_dtype(np.dtype(leaf.space.dtype))
    if target.kind not in {own} | FLOATS:
        return None
    shape, notes = leaf.space.shape, []
    scaled = scale and leaf.space.dtype == "uint8" and target.kind != own
    if leaf.space.dtype == "uint8" and target.kind != own and not scale:
        notes.append(
            f"{target.name} takes floats, and gets the numbers of {leaf.name} as they are; "
            "--scale-images divides them by 255"
        )
    how: dict[str, Any] = {}
    if target.takes(*shape):
        how["plain"] = target.kind == own
    elif len(shape) == 3 and shape[2] in CHANNELS and target.takes(shape[2], *shape[:2]):
        notes.append(f"{target.name} gets the channels of {leaf.name} first")
        how["turned"] = True
    elif sorted(target.shape) != sorted(shape) and target.holds(leaf.space.size):
        how["shape"] = target.shape
    else:
        return None
    return target.route(source, scaled=scaled, note="; ".join(notes), **how)


def _named(target: _Target, leaf: Leaf, declared: Declared, scale: bool) -> Route | None:
    """Return how one leaf goes into the input of its name; None if it does not."""
    rasters, first = declared.rasters, int(declared.features > 0)
    if leaf.raster:
        return _raster(target, first + rasters.index(leaf), leaf, scale)
    place = feature_columns(declared.observation)[leaf.path]
    branches = choices(leaf.space)
    ways: list[tuple[int, LeafSpace | None]] = [(leaf.space.size, leaf.space)] if branches else []
    if not branches or target.kind in FLOATS:
        ways.insert(0, (feature_width(leaf.space), None))  # as one-hot codes, which are floats
    for size, values in ways:
        if target.takes(size) or target.holds(size):
            rows = (size,) if values else None  # of a Discrete, a column of one
            shape = rows if target.takes(size) else target.shape
            return target.route(0, columns=place, values=values, shape=shape)
    return None
