"""The card's form of a space: read, written, refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_spec.checks import SpecError
from policy_spec.leaves import RESERVED, Layout, json_path, leaves, tensor_name
from policy_spec.parsing import MAX_DEPTH, parse_space
from policy_spec.spaces import Box, Dict, Discrete, MultiDiscrete, Space, to_data, without
from policy_spec.validate import check, pack
from tests.policy_spec.strategies import KEYS, SPACES
from tests.stack import ROOT

BOX = {"type": "Box", "dtype": "float32", "shape": [2], "low": -1, "high": 1}


def parse(data: Any) -> Space:
    return parse_space(data, "space")


@given(SPACES)
@settings(deadline=None)
def test_what_is_written_reads_back(data: dict[str, Any]) -> None:
    space = parse(data)
    written = to_data(space)
    assert parse(written) == space
    assert to_data(parse(written)) == written
    assert parse(json.loads(json.dumps(written, allow_nan=False))) == space
    assert parse(yaml.safe_load(yaml.safe_dump(written, sort_keys=False))) == space
    assert hash(space) == hash(parse(written))


def test_one_form_of_equal_spaces() -> None:
    assert parse(BOX) == parse(BOX | {"low": [-1, -1.0], "high": [1, 1]})
    assert parse(BOX | {"high": math.inf}) == parse(BOX | {"high": "inf"})
    assert to_data(parse(BOX | {"low": ["-inf", 0]}))["low"] == ["-inf", 0.0]
    minari = {"type": "Discrete", "dtype": "int64", "n": 3, "start": 0}
    assert parse({"type": "Discrete", "n": 3}) == parse(minari) == Discrete(3)


def test_the_order_of_a_dict_counts() -> None:
    one, two = ({"a": BOX, "b": BOX}, {"b": BOX, "a": BOX})
    spaces = [parse({"type": "Dict", "subspaces": parts}) for parts in (one, two)]
    assert spaces[0] != spaces[1]


def test_without_texts() -> None:
    plain = parse({"type": "Tuple", "subspaces": [BOX]})
    told = parse({"type": "Tuple", "subspaces": [BOX | {"unit": "m", "description": "Far."}]})
    assert without(told, "unit", "description") == plain
    assert without(told, "description") != plain


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "space: must be a mapping whose type is one of Box"),
        ({"type": "Text"}, "type is one of Box, Discrete.*not 'Text'"),
        ({"type": []}, "type is one of"),
        (BOX | {"extra": 1}, "space: 'extra' is no field of it; known are type, dtype"),
        ({key: BOX[key] for key in BOX if key != "low"}, "space: low is missing"),
        (BOX | {"dtype": "bool"}, r"space\.dtype: .*zeros and ones are a MultiBinary"),
        (BOX | {"dtype": "uint64"}, r"space\.dtype: must be one of float16"),
        (BOX | {"dtype": ["float32"]}, r"space\.dtype: must be one of"),
        (BOX | {"shape": 2}, r"space\.shape: must be a list of lengths"),
        (BOX | {"shape": [0]}, r"space\.shape\.0: must be an integer from 1"),
        (BOX | {"shape": [True]}, r"space\.shape\.0: must be an integer"),
        (BOX | {"shape": [5000, 5000]}, r"space\.shape: must have 16777216 elements"),
        (BOX | {"shape": [1] * 9}, r"space\.shape: must have 8 dimensions"),
        (BOX | {"low": math.nan}, r"space\.low: must be a number, inf or -inf, not nan"),
        (BOX | {"low": [0, math.nan]}, r"space\.low\.1: must be a number"),
        (BOX | {"low": "1e-3"}, r"space\.low: .*write 1\.0e-3"),
        (BOX | {"low": True}, r"space\.low: must be a number"),
        (BOX | {"low": None}, r"space\.low: must be a number"),
        (BOX | {"low": [0]}, r"space\.low: must be a list of 2, as shape says"),
        (BOX | {"low": [[0], [0]]}, r"space\.low\.0: must be a number"),
        (BOX | {"low": 2}, "space: low must not be above high: 2.0, 1.0"),
        (BOX | {"low": [0, 2]}, "space: low must not be above high"),
        (BOX | {"low": "inf", "high": "inf"}, "low must not be inf"),
        (BOX | {"high": 1e39}, r"space\.high: 1e\+39 is beyond float32: write inf"),
        (BOX | {"high": 10**400}, r"space\.high: 1000.*is beyond float32"),
        (BOX | {"dtype": "uint8"}, r"space\.low: must be an integer from 0 to 255, not -1"),
        (BOX | {"dtype": "int8", "high": "inf"}, r"space\.high: must be an integer from -128"),
        (BOX | {"unit": 1}, r"space\.unit: must be text, not 1"),
        (BOX | {"description": "\ud800"}, r"space\.description: is no valid Unicode"),
        ({"type": "Discrete", "n": 0}, r"space\.n: must be an integer from 1"),
        ({"type": "Discrete", "n": 2.0}, r"space\.n: must be an integer"),
        ({"type": "Discrete", "n": 2, "start": 2**63 - 1}, r"space\.start: must be an integer"),
        ({"type": "Discrete", "n": 2, "dtype": "float32"}, r"space\.dtype: must be an integer ty"),
        ({"type": "MultiDiscrete", "nvec": []}, r"space\.nvec: must be a list of numbers"),
        ({"type": "MultiDiscrete", "nvec": [[2]]}, r"space\.nvec\.0: must be an integer"),
        ({"type": "MultiDiscrete", "nvec": [2], "start": [0, 0]}, r"space\.start: .* 1 numbers"),
        ({"type": "MultiBinary", "n": []}, r"space\.n: must be a number or a list"),
        ({"type": "Dict", "subspaces": {}}, r"space\.subspaces: must be a mapping with"),
        ({"type": "Dict", "subspaces": [BOX]}, r"space\.subspaces: must be a mapping with"),
        ({"type": "Dict", "subspaces": {True: BOX}}, "name True: must be text.*in quotes"),
        ({"type": "Dict", "subspaces": {"a": {"type": "Tuple"}}}, r"space\.a: subspaces is miss"),
        ({"type": "Tuple", "subspaces": []}, r"space\.subspaces: must be a list with"),
        ({"type": "Tuple", "subspaces": [1]}, r"space\.0: must be a mapping"),
    ],
)
def test_refused(data: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(data)


def test_too_deep_is_refused() -> None:
    data: dict[str, Any] = BOX
    for _ in range(MAX_DEPTH):
        data = {"type": "Tuple", "subspaces": [data]}
    parse(data)
    with pytest.raises(SpecError, match="16 levels deep at most"):
        parse({"type": "Tuple", "subspaces": [data]})
    for _ in range(10_000):
        data = {"type": "Tuple", "subspaces": [data]}
    with pytest.raises(SpecError, match="16 levels deep at most"):
        parse(data)


def test_a_bound_admits_its_own_rounding() -> None:
    box = Box("float32", (), 0.1, 0.7)
    low, high = box.limits()
    assert low == 0.1 < float(np.float32(0.1))
    assert high == 0.7 > float(np.float32(0.7))
    assert Box("float32", (), 0.0, 0.1).limits()[1] == float(np.float32(0.1))
    assert Box("float16", (), -math.inf, math.inf).limits() == (-65504.0, 65504.0)
    assert Box("float32", (), 0.0, math.inf).limits()[1] == float(np.finfo(np.float32).max)


@given(st.lists(KEYS, max_size=4), st.lists(KEYS, max_size=4))
@settings(max_examples=500)
def test_names_of_tensors_are_injective(one: list[str], two: list[str]) -> None:
    paths = tuple(one), tuple(two)
    names = [tensor_name(path) for path in paths]
    assert (names[0] == names[1]) == (paths[0] == paths[1])
    for path, name in zip(paths, names, strict=True):
        assert name.isascii()
        assert name.isprintable()
        assert " " not in name
        assert not path or name not in RESERVED


def test_names_of_tensors() -> None:
    names = {
        ("speed",): "speed",
        ("camera", "front"): "camera.front",
        ("camera.front",): "camera%2Efront",
        ("seed",): "%73eed",
        ("a", "seed"): "a.seed",
        (): "observation",
        ("observation",): "%6Fbservation",
        ("",): "%",
        ("rück~spiegel",): "r%C3%BCck%7Espiegel",
    }
    assert {path: tensor_name(path) for path in names} == names
    assert json_path("observations.3", ("camera.front", "0")) == "observations.3.camera.front.0"
    assert json_path("observation", ()) == "observation"


@given(SPACES)
@settings(deadline=None)
def test_each_leaf_has_one_place(data: dict[str, Any]) -> None:
    space = parse(data)
    layout = Layout.of(space)
    found = leaves(space)
    assert len({leaf.name for leaf in found}) == len(found)
    assert sorted([slot.leaf.name for slot in layout.packed] + [one.name for one in layout.apart])
    ends = [slot.offset + slot.leaf.space.size for slot in layout.packed]
    assert [slot.offset for slot in layout.packed] == [0, *ends[:-1]][: len(ends)]
    assert layout.width == (ends[-1] if ends else 0)
    row = {leaf.name: bytes([i % 256]) * leaf.nbytes for i, leaf in enumerate(found)}
    joined = layout.join(row)
    assert {leaf.name: joined[leaf.name] for leaf in layout.apart} == {
        leaf.name: row[leaf.name] for leaf in layout.apart
    }
    for slot in layout.packed:
        start = 4 * slot.offset
        assert joined["observation"][start : start + slot.leaf.nbytes] == row[slot.leaf.name]
    assert sum(map(len, joined.values())) == sum(leaf.nbytes for leaf in found)


def test_what_is_packed() -> None:
    def box(dtype: str, *shape: int) -> Box:
        return Box(dtype, shape, 0, 1)

    space = Dict(
        (
            ("speed", box("float32")),
            ("bird", box("float32", 84, 84)),
            ("camera", box("uint8", 8, 8, 3)),
            ("lidar", box("float32", 9000)),
            ("grid", box("float32", 64, 64)),
            ("exact", box("float64", 2)),
            ("light", Discrete(4)),
            ("gears", MultiDiscrete((2, 3), (0, 0))),
        )
    )
    layout = Layout.of(space)
    assert [slot.leaf.name for slot in layout.packed] == ["speed", "lidar", "grid"]
    tensors = {leaf.name: (leaf.triton, leaf.dims) for leaf in leaves(space)}
    assert tensors["speed"] == ("FP32", (1,))
    assert tensors["light"] == ("INT64", (1,))
    assert tensors["gears"] == ("INT64", (2,))
    assert tensors["camera"] == ("UINT8", (8, 8, 3))
    (leaf,) = leaves(parse({"type": "MultiBinary", "n": 3}))
    assert (leaf.name, leaf.triton, leaf.dims) == ("observation", "INT8", (3,))


def minari(space: gym.Space[Any]) -> dict[str, Any]:
    """Write a space as `minari.serialization.serialize_space` does."""
    if isinstance(space, gym.spaces.Dict):
        return {"type": "Dict", "subspaces": {key: minari(sub) for key, sub in space.items()}}
    if isinstance(space, gym.spaces.Tuple):
        return {"type": "Tuple", "subspaces": [minari(sub) for sub in space.spaces]}
    data: dict[str, Any] = {"type": type(space).__name__}
    if isinstance(space, gym.spaces.Box):
        data |= {"dtype": str(space.dtype), "shape": list(space.shape)}
        return data | {"low": space.low.tolist(), "high": space.high.tolist()}
    if isinstance(space, gym.spaces.Discrete):
        return data | {"dtype": "int64", "start": int(space.start), "n": int(space.n)}
    if isinstance(space, gym.spaces.MultiDiscrete):
        data |= {"dtype": str(space.dtype), "nvec": space.nvec.tolist()}
        return data | {"start": space.start.tolist()}
    assert isinstance(space, gym.spaces.MultiBinary)
    return data | {"n": space.n}


def plain(sample: Any) -> Any:
    if isinstance(sample, dict):
        return {key: plain(one) for key, one in sample.items()}
    if isinstance(sample, tuple):
        return [plain(one) for one in sample]
    return sample.tolist()


def test_gymnasium_spaces_and_their_samples() -> None:
    spaces = gym.spaces
    space = spaces.Dict(
        {
            "box": spaces.Box(np.float32([-0.1, -np.inf]), np.float32([0.7, np.inf])),
            "image": spaces.Box(0, 255, (9, 8, 3), np.uint8),
            "number": spaces.Box(-0.1, 0.1, (), np.float32),
            "double": spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
            "step": spaces.Discrete(5, start=-2),
            "pair": spaces.Tuple([spaces.MultiDiscrete([3, 2]), spaces.MultiBinary([2, 3])]),
            "bits": spaces.MultiBinary(4),
        },
        seed=0,
    )
    read = parse(minari(space))
    for _ in range(200):
        sample = space.sample()
        assert check(read, plain(sample)) == []
        row = pack(read, plain(sample))
        assert row["box"] == sample["box"].tobytes()
        assert row["image"] == sample["image"].tobytes()
        assert row["pair.1"] == sample["pair"][1].tobytes()
        assert row["pair.0"] == sample["pair"][0].astype(np.int64).tobytes()


def test_it_needs_the_standard_library_alone() -> None:
    program = (
        "import sys, policy_spec.signature, policy_spec.json_schema, policy_spec.example\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(*sorted(names - set(sys.stdlib_module_names) - {'__main__', 'policy_spec'}))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
