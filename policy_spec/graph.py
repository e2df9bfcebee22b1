"""What a policy's graph takes: features, noise, and the rasters of an observation as they are."""

from dataclasses import dataclass

from policy_spec.leaves import Path, leaves
from policy_spec.spaces import Discrete, LeafSpace, MultiDiscrete, Space


@dataclass(frozen=True)
class Input:
    """One input of the graph, without the batch: its name, numpy's data type, and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def graph_inputs(space: Space, noise: int) -> tuple[Input, ...]:
    """Return the inputs of the graph of a policy with `noise` numbers of noise a row, in order.

    `features` (absent where an observation is rasters alone) and `noise` are float32. Each raster
    follows under the name of its leaf's tensor, in the card's order.
    """
    width = features_width(space)
    features = [Input("features", "float32", (width,))] if width else []
    rasters = [
        Input(leaf.name, leaf.space.dtype, leaf.space.shape)
        for leaf in leaves(space)
        if leaf.raster
    ]
    return (*features, Input("noise", "float32", (noise,)), *rasters)


def features_width(space: Space) -> int:
    """Return the number of features of an observation: those of all leaves but rasters."""
    return sum(feature_width(leaf.space) for leaf in leaves(space) if not leaf.raster)


def feature_columns(space: Space) -> dict[Path, tuple[int, int]]:
    """Return where the features of each leaf but rasters are, by its path: (start, stop)."""
    found, start = {}, 0
    for leaf in leaves(space):
        if not leaf.raster:
            stop = start + feature_width(leaf.space)
            found[leaf.path] = (start, stop)
            start = stop
    return found


def choices(space: LeafSpace) -> list[range] | None:
    """Return the values of each branch that is one-hot, or None for a leaf of plain numbers."""
    if isinstance(space, Discrete):
        return [range(space.start, space.start + space.n)]
    if isinstance(space, MultiDiscrete):
        return [range(s, s + n) for s, n in zip(space.start, space.nvec, strict=True)]
    return None


def feature_width(space: LeafSpace) -> int:
    """Return the number of features of a leaf."""
    branches = choices(space)
    return space.size if branches is None else sum(map(len, branches))
