"""What a policy's graph takes: features, noise, the rasters of an observation, and a memory."""

from dataclasses import dataclass

from policy_spec.leaves import Path, leaves
from policy_spec.signature import EPISODE_START, Signature, StateLeaf
from policy_spec.spaces import Discrete, LeafSpace, MultiDiscrete, Space


@dataclass(frozen=True)
class Input:
    """One input of the graph, without the batch: its name, numpy's data type, and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def graph_inputs(signature: Signature) -> tuple[Input, ...]:
    """Return the inputs of the graph of a policy, in order.

    `features` (absent where an observation is rasters alone) and `noise` are float32; a policy
    without noise takes one number of it. Each raster follows under the name of its leaf's tensor,
    in the card's order. A policy with a memory takes `episode_start`, a bool, and its state.
    """
    taken = list(program_inputs(signature.observation_space, signature.state))
    if signature.state:
        taken.insert(len(taken) - len(signature.state), Input(EPISODE_START, "bool", (1,)))
    first = 1 if features_width(signature.observation_space) else 0
    taken.insert(first, Input("noise", "float32", (max(signature.noise_width, 1),)))
    return tuple(taken)


def program_inputs(space: Space, state: tuple[StateLeaf, ...] = ()) -> tuple[Input, ...]:
    """Return what an artifact's TorchScript or ONNX model takes: features, rasters, state."""
    width = features_width(space)
    features = [Input("features", "float32", (width,))] if width else []
    rasters = [
        Input(leaf.name, leaf.space.dtype, leaf.space.shape)
        for leaf in leaves(space)
        if leaf.raster
    ]
    return (*features, *rasters, *(Input(one.tensor, one.dtype, one.shape) for one in state))


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
