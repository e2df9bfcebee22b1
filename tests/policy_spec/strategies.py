"""Random nested spaces, in the card's form, and random values of them."""

from __future__ import annotations

import base64
import random
from typing import Any

from hypothesis import strategies as st

from policy_spec.dtypes import DTYPES, DType
from policy_spec.spaces import Box, Dict, Space, Tuple, at, nest
from policy_spec.validate import takes_bytes

KEYS = st.one_of(
    st.sampled_from(["observation", "seed", "a.b", "", "%", "camera", "0", "é", "a/b", "~", "%2E"]),
    st.text(st.characters(codec="utf-8"), max_size=8),
)
SHAPES = st.one_of(
    st.lists(st.integers(1, 4), max_size=3), st.sampled_from([[65], [8, 9], [9, 8, 3]])
)
SAID = st.fixed_dictionaries({}, optional={"unit": st.text("km/h", max_size=4)})


def number(dtype: DType) -> st.SearchStrategy[Any]:
    if not dtype.floating:
        return st.integers(int(dtype.low), int(dtype.high))
    width = 8 * dtype.itemsize
    return st.floats(dtype.low, dtype.high, allow_nan=False, width=width)  # type: ignore[arg-type]


@st.composite
def boxes(draw: st.DrawFn) -> dict[str, Any]:
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = draw(SHAPES)
    size = len(Box(dtype.name, (1,), 0, 1).shape) and Box(dtype.name, tuple(shape), 0, 1).size
    pairs = st.tuples(number(dtype), number(dtype)).map(sorted)
    if draw(st.booleans()) and size < 20:
        found = draw(st.lists(pairs, min_size=size, max_size=size))
        low, high = (nest([pair[side] for pair in found], tuple(shape)) for side in (0, 1))
    else:
        low, high = draw(pairs)
        if dtype.floating and draw(st.booleans()):
            low, high = draw(st.sampled_from([("-inf", high), (low, "inf"), ("-inf", "inf")]))
    return {"type": "Box", "dtype": dtype.name, "shape": shape, "low": low, "high": high}


LEAVES = st.one_of(
    boxes(),
    st.builds(
        lambda n, start: {"type": "Discrete", "n": n, "start": start},
        st.integers(1, 2**62),
        st.integers(-(2**62), 2**62),
    ),
    st.builds(
        lambda pairs: {
            "type": "MultiDiscrete",
            "nvec": [n for n, _ in pairs],
            "start": [start for _, start in pairs],
        },
        st.lists(st.tuples(st.integers(1, 9), st.integers(-9, 9)), min_size=1, max_size=4),
    ),
    st.builds(
        lambda n: {"type": "MultiBinary", "n": n},
        st.one_of(st.integers(1, 70), st.lists(st.integers(1, 4), min_size=1, max_size=3)),
    ),
)
SPACES = st.recursive(
    st.builds(lambda leaf, said: leaf | said, LEAVES, SAID),
    lambda inner: st.one_of(
        st.builds(
            lambda parts: {"type": "Dict", "subspaces": parts},
            st.dictionaries(KEYS, inner, min_size=1, max_size=4),
        ),
        st.builds(
            lambda parts: {"type": "Tuple", "subspaces": parts},
            st.lists(inner, min_size=1, max_size=3),
        ),
    ),
    max_leaves=8,
)


def value_of(space: Space, source: random.Random, binary: str = "lists") -> Any:
    """Draw a value, exact in the data type, in JSON (`lists`, `base64`) or msgpack (`bytes`)."""
    if isinstance(space, Dict):
        return {key: value_of(sub, source, binary) for key, sub in space.subspaces}
    if isinstance(space, Tuple):
        return [value_of(sub, source, binary) for sub in space.subspaces]
    low, high = space.limits()
    numbers: list[Any] = []
    for index in range(space.size):
        least, most = at(low, index), at(high, index)
        if space.element.floating:
            share = source.choice([0.0, 1.0, source.random()])
            number = min(max(least * (1 - share) + most * share, least), most)
            numbers.append(min(max(space.element.round(number), least), most))
        else:
            numbers.append(source.randint(int(least), int(most)))
    if binary != "lists" and takes_bytes(space):
        content = space.element.pack(numbers)
        return base64.b64encode(content).decode() if binary == "base64" else content
    return nest(numbers, space.shape)
