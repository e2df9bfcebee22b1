"""The spaces of Stable-Baselines3: rebuilt from data, and flattened in its order."""

from collections import OrderedDict
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from converters.artifact.pickles import Array, Dtype, Foreign, Record
from policy_spec import spaces as spec
from policy_spec.leaves import Leaf
from policy_spec.parsing import parse_space

Space = spaces.Space[Any]
_LEAVES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def rebuild(read: Any) -> Space:
    """Return the gymnasium space of a pickled gym or gymnasium space.

    Raises ValueError for a class that is none of Box, Discrete, MultiDiscrete, MultiBinary, Dict
    and Tuple, and for attributes that make no space.
    """
    if isinstance(read, Foreign):
        raise ValueError(f"the space {read.module}.{read.name} is none of {', '.join(_REBUILD)}")
    kind = read.kind if isinstance(read, Record) else type(read).__name__
    if kind not in _REBUILD:
        raise ValueError(f"{kind} is no space")
    try:
        space: Space = _REBUILD[kind](read)
        return space
    except ValueError:
        raise
    except Exception as error:  # attributes of a damaged or hostile object can cause any error
        raise ValueError(f"no whole {kind}: {type(error).__name__}: {error}") from None


def _plain(value: Any) -> Any:
    return value.values if isinstance(value, Array) else value


def _box(read: Any) -> Space:
    low, high = np.asarray(_plain(read.low)), np.asarray(_plain(read.high))
    dtype = np.dtype(read.dtype.name) if isinstance(read.dtype, Dtype) else low.dtype
    return spaces.Box(low, high, low.shape, dtype.type)


def _discrete(read: Any) -> Space:
    return spaces.Discrete(int(read.n), start=int(getattr(read, "start", 0)))


def _multi_discrete(read: Any) -> Space:
    start = _plain(getattr(read, "start", None))
    return spaces.MultiDiscrete(_plain(read.nvec), start=start)


def _multi_binary(read: Any) -> Space:
    n = _plain(read.n)
    return spaces.MultiBinary(n if isinstance(n, tuple | list | np.ndarray) else int(n))


def _dict(read: Any) -> Space:
    parts = OrderedDict((str(key), rebuild(part)) for key, part in read.spaces.items())
    return spaces.Dict(parts)  # the order is kept: Stable-Baselines3 joins the features in it


_REBUILD: dict[str, Any] = {
    "Box": _box,
    "Discrete": _discrete,
    "MultiDiscrete": _multi_discrete,
    "MultiBinary": _multi_binary,
    "Dict": _dict,
    "Tuple": lambda read: spaces.Tuple([rebuild(part) for part in read.spaces]),
}


def parts(space: Space) -> dict[str | None, Space]:
    """Return the spaces of an observation's parts: by name of a Dict, else one under None."""
    return dict(space.spaces.items()) if isinstance(space, spaces.Dict) else {None: space}


def parsed(space: Space) -> spec.Space:
    """Return an observation space as a card has it: the policy computes its features in this order.

    Raises ValueError for a Tuple or a Dict within a Dict, which Stable-Baselines3 does not take
    either.
    """
    for key, part in parts(space).items():
        if not isinstance(part, _LEAVES):
            raise ValueError(f"{named(key)} is a {type(part).__name__} within {space}")
    return parse_space(card_form(space), "observation_space")


def key(leaf: Leaf) -> str | None:
    """Return the name of a part of `parsed`; None where the observation is no Dict."""
    return leaf.path[0] if leaf.path else None


def card_form(space: Space, seen: Any = None, starts: bool = False) -> dict[str, Any]:
    """Return the card's form of a space. It is not checked: a card may refuse it.

    `seen` is a batch that was observed, or None. If it lies outside of a Box, the Box gets no
    bounds. Without `starts` values are what Stable-Baselines3 takes and gives: from 0 on, whatever
    `start` says.
    """
    if isinstance(space, spaces.Dict):
        parts = {
            key: card_form(part, seen.get(key) if isinstance(seen, dict) else None, starts)
            for key, part in space.spaces.items()
        }
        return {"type": "Dict", "subspaces": parts}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "subspaces": [card_form(part, None, starts) for part in space]}
    if isinstance(space, spaces.Discrete):
        start = {"start": int(space.start)} if starts else {}
        return {"type": "Discrete", "n": int(space.n)} | start
    if isinstance(space, spaces.MultiDiscrete):
        start = {"start": space.start.ravel().tolist()} if starts else {}
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist()} | start
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else [*space.shape]}
    if not isinstance(space, spaces.Box):
        return {"type": type(space).__name__}
    low, high = _bounds(space.low), _bounds(space.high)
    if seen is not None and outside(space, seen):
        low, high = "-inf", "inf"
    shape = list(space.shape)
    return {"type": "Box", "dtype": space.dtype.name, "shape": shape, "low": low, "high": high}


def _bounds(bounds: NDArray[Any]) -> Any:
    """Return bounds as plain numbers, the shortest that are these in the array's type."""
    floats = bounds.dtype.kind == "f"
    flat = [float(str(one)) if floats else int(one) for one in bounds.ravel()]
    plain = [str(one) if floats and np.isinf(one) else one for one in flat]
    if len(set(plain)) == 1:
        return plain[0]
    return np.array(plain, object).reshape(bounds.shape).tolist()


def outside(space: spaces.Box, batch: Any) -> bool:
    """Return whether a float Box does not hold a batch that was observed."""
    values = np.asarray(batch)
    if space.dtype.kind != "f" or values.shape[1:] != space.shape:
        return False
    return bool(((values < space.low - 1e-3) | (values > space.high + 1e-3)).any())


def named(key: str | None) -> str:
    """Return what errors call a part."""
    return "the observation" if key is None else f"the observation's part {key!r}"


def blocks(space: Any) -> Any:
    """Return the widths of the one-hot blocks of a Discrete or a MultiDiscrete."""
    return space.nvec.ravel() if isinstance(space, spaces.MultiDiscrete) else [space.n]
