"""What the inputs of an ONNX model are given: features, parts of them, and rasters."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from converters.artifact.card import ArtifactError
from converters.artifact.onnx_network import Network
from converters.importers import programs
from converters.importers.declared import Declared
from converters.importers.observed import value
from policy_spec.graph import choices, feature_columns, feature_width
from policy_spec.leaves import Leaf, leaves
from policy_spec.spaces import LeafSpace

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
        second: whether the rows become the second dimension, as for the state of an LSTM.
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
    second: bool = False
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
        return self.form(made)

    def form(self, made: Tensor) -> Tensor:
        """Return the input of what it takes."""
        if self.turned:
            made = made.permute(0, 3, 1, 2)
        if self.second:
            made = made.transpose(0, 1)
        if self.shape is not None:
            made = made.reshape(-1, *self.shape)
        made = made.to(self.dtype)
        return made / 255 if self.scaled else made


class Routed(nn.Module):
    """An ONNX model that takes and gives what a program does."""

    def __init__(
        self, network: nn.Module, routes: Sequence[Route], seconds: Sequence[bool] = ()
    ) -> None:
        """Take the model, a route for each input, and `second` of each part of the next state."""
        super().__init__()
        self.network, self.routes, self.seconds = network, tuple(routes), tuple(seconds)

    def forward(self, *given: Tensor) -> Any:
        """Compute the model."""
        return rows_first(self.network(*(route(*given) for route in self.routes)), self.seconds)


def rows_first(made: Any, seconds: Sequence[bool]) -> Any:
    """Return outputs with the rows first, of which the last ones may have them second."""
    if not any(seconds):
        return made
    begin = len(made) - len(seconds)
    pairs = zip(made[begin:], seconds, strict=True)
    return (*made[:begin], *(one.transpose(0, 1) if second else one for one, second in pairs))


class Named(nn.Module):
    """The user's own model, fed by its inputs' names: what `Routed` is compared with."""

    def __init__(
        self, network: Network, names: Sequence[str], routes: Sequence[Route], declared: Declared
    ) -> None:
        """Take the model, and the names of its inputs and a route for each, for other names."""
        super().__init__()
        self.network, self.routes = network, dict(zip(names, routes, strict=True))
        self.declared = declared

    def forward(self, *given: Tensor) -> Any:
        """Compute the model; return all of its outputs."""
        fed = {name: route(*given) for name, route in self.routes.items()}
        found, places = (
            leaves(self.declared.observation),
            feature_columns(self.declared.observation),
        )
        rasters = iter(given[bool(places) :])
        for leaf in found:
            part = next(rasters) if leaf.raster else given[0][:, slice(*places[leaf.path])]
            for name in fed.keys() & _names(leaf, short=False):
                if leaf.raster or len(fed) - len(self.declared.state) == len(found):
                    values = self.routes[name].values is not None
                    made = value(leaf.space, part) if values else part
                    fed[name] = self.routes[name].form(made)
        return programs.parts(self.network(*(fed[name] for name in self.network.model.names)))


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

    def counts(self, space: LeafSpace) -> bool:
        """Whether it is of integers that all values of a space are among."""
        kept = np.iinfo(helper.tensor_dtype_to_np_dtype(self.kind))
        low, high = space.limits()
        return not space.element.floating and kept.min <= np.min(low) and np.max(high) <= kept.max

    def route(self, source: int, **how: Any) -> Route:
        name = helper.tensor_dtype_to_np_dtype(self.kind).name
        return Route(source, getattr(torch, name), **how)


def routes(
    inputs: Sequence[onnx.ValueInfoProto], declared: Declared, scale: bool
) -> list[Route] | None:
    """Return a route for each input, or None if an observation does not fit them.

    If `scale`, inputs of floats take uint8 images from 0 to 1.

    An input with the name of a leaf takes it. Of the others one takes all features, and each other
    one a raster; or each takes a leaf. Raises ArtifactError where their shapes do not tell which.
    """
    targets = [_Target(one) for one in inputs]
    if not all(one.batched and one.kind in FLOATS | _INTEGERS for one in targets):
        return None
    parts: list[Leaf | None] = list(leaves(declared.observation))
    alone = [leaf for leaf in leaves(declared.observation) if not leaf.raster]
    whole = [None] if len(alone) > 1 else alone
    for given in ([*whole, *declared.rasters], parts):
        ways = [[_way(one, leaf, declared, scale) for leaf in given] for one in targets]
        for one, row in zip(targets, ways, strict=True):
            leaf = named(one.name, declared)
            if leaf in given and row[given.index(leaf)] is not None:
                row[:] = [way if own == leaf else None for way, own in zip(row, given, strict=True)]
        if len(given) == len(targets) and (found := _told_apart(targets, ways, given, declared)):
            ordered = enumerate(found)
            return [replace(way, plain=way.plain and way.source == at) for at, way in ordered]
    return None


def named(name: str, declared: Declared) -> Leaf | None:
    """Return the leaf of an input's name: its path, or the end of it; the case need not fit."""
    found = leaves(declared.observation)
    for fold in (str, str.lower):
        for short in (False, True):
            fitting = [leaf for leaf in found if fold(name) in map(fold, _names(leaf, short))]
            if len(fitting) == 1:
                return fitting[0]
    return None


def _names(leaf: Leaf, short: bool) -> set[str]:
    return set(leaf.path[-1:]) if short else {leaf.name, ".".join(leaf.path)}


def _told_apart(
    targets: Sequence[_Target],
    ways: Sequence[list[Route | None]],
    given: Sequence[Leaf | None],
    declared: Declared,
) -> list[Route] | None:
    """Return the one way in which each target takes another part; None if there is none."""
    made: dict[int, Route] = {}
    free = set(range(len(given)))
    while free:
        fitting = {
            index: {at for at in free if row[at] is not None}
            for index, row in enumerate(ways)
            if index not in made
        }
        if not all(fitting.values()):
            return None
        # Where only one way is left for all together, one target has only one.
        index = min(fitting, key=lambda one: len(fitting[one]))
        if len(fitting[index]) > 1:
            alike = [one for one, others in fitting.items() if others == fitting[index]]
            inputs = " and ".join(targets[one].name for one in alike)
            parts = ", ".join(_called(given[at]) for at in sorted(fitting[index]))
            raise ArtifactError(
                f"{declared.source}: name the inputs as the observation's parts: {inputs} may be "
                f"any of {parts}"
            )
        (at,) = fitting[index]
        way = ways[index][at]
        assert way is not None
        made[index] = way
        free.remove(at)
    return [made[index] for index in range(len(targets))]


def _called(leaf: Leaf | None) -> str:
    return "the features" if leaf is None else ".".join(leaf.path)


def _way(target: _Target, leaf: Leaf | None, declared: Declared, scale: bool) -> Route | None:
    """Return how a leaf, or None for all features, goes into an input; None if it does not."""
    first = int(declared.features > 0)
    if leaf is not None and leaf.raster:
        return _raster(target, first + declared.rasters.index(leaf), leaf, scale)
    floats = target.kind in FLOATS
    place = (0, declared.features)
    ways: list[tuple[int, LeafSpace | None]] = [(declared.features, None)] if floats else []
    if leaf is not None:
        sizes = leaf.space.shape
        if target.shape != sizes and sorted(target.shape) == sorted(sizes):
            return None
        place, ways = feature_columns(declared.observation)[leaf.path], []
        branches, held = choices(leaf.space), floats or target.counts(leaf.space)
        if floats or (branches is None and held):
            ways.append((feature_width(leaf.space), None))  # as one-hot codes, which are floats
        if branches is not None and held:
            ways.append((leaf.space.size, leaf.space))
    whole = place == (0, declared.features)
    for size, values in ways:
        if target.takes(size) or target.holds(size):
            flat = target.takes(size)
            shape = None if flat and values is None else (size,) if flat else target.shape
            plain = whole and shape is None and target.kind == TensorProto.FLOAT
            columns = None if whole else place
            return target.route(0, columns=columns, values=values, shape=shape, plain=plain)
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
