"""Observations of a policy as arrays: recorded ones, drawn ones, and the corners of a space."""

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.artifact.card import ArtifactError, ModelCard
from converters.errors import one_line
from policy_spec.example import example
from policy_spec.leaves import Leaf, leaves
from policy_spec.spaces import Space
from policy_spec.validate import pack, unpack

OBSERVATIONS, BY_LEAF = "observations.npy", "observations.npz"
"""One array with all elements of a row in a line, for spaces of floats alone; or one array for each
leaf, by its keys joined by dots, or by its tensor's name."""
FILES = (OBSERVATIONS, BY_LEAF)

Rows = tuple[NDArray[Any], ...]
"""Observations: for each leaf, in the card's order, its values of shape (n, …)."""

EDGE = 1000.0
"""A corner of an infinite or very wide range, whose numbers no policy has seen."""


def file_name(path: Path) -> str:
    """Return the name under which an artifact keeps the user's file `path`."""
    return BY_LEAF if path.suffix == ".npz" else OBSERVATIONS


def no_rows(space: Space) -> Rows:
    """Return no observations at all."""
    return tuple(np.empty((0, *leaf.space.shape), leaf.space.dtype) for leaf in leaves(space))


def read(path: Path, data: bytes, card: ModelCard) -> Rows:
    """Read the content of `path`; raise ArtifactError if it holds no observations of the card.

    Of older cards, rows out of bounds are left out: nobody can send them.
    """
    space = card.signature.observation_space
    try:
        loaded: Any = np.load(io.BytesIO(data), allow_pickle=False)
        given = loaded if isinstance(loaded, np.ndarray) else dict(loaded)
        for one in [given] if isinstance(given, np.ndarray) else given.values():
            if not isinstance(one, np.ndarray) or one.dtype.kind not in "fiub":
                raise ValueError("its elements are no real numbers")
    except Exception as error:  # whatever a damaged or hostile header can provoke in numpy
        why = one_line(error).removesuffix(" when allow_pickle=False")
        raise ArtifactError(
            f"{path}: no numpy array ({why}): write it with numpy.save or numpy.savez"
        ) from None
    if isinstance(given, np.ndarray):
        given = _split(path, given, space)
    names = {leaf.name: ".".join(leaf.path) or leaf.name for leaf in leaves(space)}
    of_keys = {key: name for name, key in names.items()} | {name: name for name in names}
    found = [of_keys.get(key, key) for key in given]
    if sorted(found) != sorted(names):
        raise ArtifactError(f"{path}: it must hold the arrays {', '.join(names.values())}")
    given = dict(zip(found, given.values(), strict=True))
    rows = []
    for leaf in leaves(space):
        values = given[leaf.name]
        if values.shape[1:] not in (leaf.space.shape, leaf.dims) or not values.ndim:
            shape = ", ".join(map(str, ("n", *leaf.space.shape)))
            raise ArtifactError(f"{path}: the shape of {leaf.name} must be ({shape})")
        if not np.isfinite(values).all():
            raise ArtifactError(f"{path}: {leaf.name} holds values that are not finite")
        rows.append(values.reshape(len(values), *leaf.space.shape))
    if len({len(values) for values in rows}) != 1:
        raise ArtifactError(f"{path}: its arrays must have the same number of rows")
    inside = [_inside(leaf, values) for leaf, values in zip(leaves(space), rows, strict=True)]
    if card.observation_space is None:
        kept = np.logical_and.reduce(inside)
        rows = [values[kept] for values in rows]
    for leaf, one in zip(leaves(space), inside, strict=True):
        if card.observation_space is not None and not one.all():
            raise ArtifactError(
                f"{path}: row {np.argmin(one)} of {leaf.name} is outside of the space that the "
                "card declares: correct the bounds, or leave such rows out"
            )
    return tuple(
        values.astype(leaf.space.dtype) for leaf, values in zip(leaves(space), rows, strict=True)
    )


def _split(path: Path, flat: NDArray[Any], space: Space) -> dict[str, NDArray[Any]]:
    """Return the array of each leaf, given all elements of a row in a line."""
    found = leaves(space)
    if not all(leaf.space.element.floating for leaf in found):
        raise ArtifactError(f"{path}: not all of an observation are floats: it needs {BY_LEAF}")
    sizes = [leaf.space.size for leaf in found]
    if len(found) == 1 and flat.shape[1:] == found[0].space.shape:
        return {found[0].name: flat}
    if flat.ndim != 2 or flat.shape[1] != sum(sizes):
        raise ArtifactError(f"{path}: its shape must be (n, {sum(sizes)})")
    parts = np.split(flat, np.cumsum(sizes)[:-1], axis=1)
    return {
        leaf.name: part.reshape(len(flat), *leaf.space.shape)
        for leaf, part in zip(found, parts, strict=True)
    }


def _inside(leaf: Leaf, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return whether each row is in the space; one that is no integer is not, where it must be."""
    low, high = _limits(leaf)
    flat = values.reshape(len(values), leaf.space.size)
    good = (flat >= low) & (flat <= high)
    if not leaf.space.element.floating:
        good &= flat == np.floor(flat)
    inside: NDArray[np.bool_] = good.all(axis=1)
    return inside


def _limits(leaf: Leaf) -> list[NDArray[Any]]:
    return [np.array(np.broadcast_to(one, leaf.space.size)) for one in leaf.space.limits()]


@lru_cache(maxsize=4)
def drawn(space: Space, rows: int, first_seed: int = 0) -> Rows:
    """Draw observations: `policy_spec.example` of one seed after another. Don't change them."""
    packed = [pack(space, example(space, first_seed + row)) for row in range(rows)]
    return tuple(
        np.frombuffer(
            bytearray().join(bytes(row[leaf.name]) for row in packed),  # type: ignore[arg-type]
            leaf.space.dtype,
        ).reshape(rows, *leaf.space.shape)
        for leaf in leaves(space)
    )


def corners(space: Space) -> Rows:
    """Return observations at the ends of all ranges, and zeros and ones as far as they are within.

    An infinite range, or one that is very wide, ends at ±1000.
    """
    rows = []
    for leaf in leaves(space):
        low, high = _limits(leaf)
        if leaf.space.element.floating:
            wide = [np.clip(bound, -EDGE, EDGE) for bound in (low, high)]
            low, high = np.clip(wide[0], low, high), np.clip(wide[1], low, high)
        zero, one = np.clip(0, low, high), np.clip(1, low, high)
        odd = np.arange(leaf.space.size) % 2 == 1
        ends = [low, high, zero, one, np.where(odd, high, low), np.where(odd, low, high)]
        rows.append(np.array(ends, leaf.space.dtype).reshape(len(ends), *leaf.space.shape))
    # Each leaf at its low end while the others are at their high end, too.
    turned = [
        np.concatenate([values, np.roll(values, index, 0)]) for index, values in enumerate(rows)
    ]
    return tuple(turned)


def json_form(space: Space, rows: Rows) -> list[Any]:
    """Return the JSON form of each observation."""
    contents = [(leaf.name, values) for leaf, values in zip(leaves(space), rows, strict=True)]
    return [
        unpack(space, {name: values[index].tobytes() for name, values in contents}, "base64")
        for index in range(len(rows[0]))
    ]
