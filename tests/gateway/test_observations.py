"""Observations of any space: decoded, checked and packed as the plain reference does it."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.api.codec import Codec, codec_of, read_envelope
from gateway.api.errors import ValidationFailed
from gateway.api.problems import JSON, MSGPACK, NOT_READ
from gateway.triton.batch import Rows
from gateway.triton.client import FUSED, tensors_of
from gateway.triton.tensors import Tensors
from policy_spec.leaves import Layout, leaves
from policy_spec.parsing import parse_space
from policy_spec.spaces import Box, Dict, Discrete, Space, Tuple
from policy_spec.validate import MAX_NUMBERS, Problem, check, pack
from tests.policy_spec.strategies import SPACES, value_of

SEEDS = st.integers(0, 2**32)
FORMS = {
    "lists": (JSON, msgspec.json.encode),
    "base64": (JSON, msgspec.json.encode),
    "bytes": (MSGPACK, msgspec.msgpack.encode),
}


def rows_of(codec: Codec, space: Space, values: list[Any], binary: str, seed: int | None) -> Rows:
    form, encode = FORMS[binary]
    request = codec.read_request[form](encode({"observations": values}))
    packed = codec.pack(request.observations)
    return Rows.of(Tensors(Layout.of(space), ()), len(values), packed, seed)


@given(SPACES, SEEDS, st.sampled_from(sorted(FORMS)))
@settings(deadline=None, max_examples=300)
def test_each_row_is_packed_as_the_reference_does_it(
    data: dict[str, Any], seed: int, binary: str
) -> None:
    space = parse_space(data, "space")
    values = [value_of(space, random.Random(seed + i), binary) for i in range(4)]
    expected: list[Any] = [pack(space, value) for value in values]
    rows = rows_of(codec_of(space), space, values, binary, 7)

    layout = Layout.of(space)
    joined = [layout.join(row) for row in expected]
    fused = {name: content for name, _, content in tensors_of(f"{FUSED}v1.0.0", rows)}
    assert len(fused.pop("noise_key")) == 4 * 16
    assert fused == {name: b"".join(one[name] for one in joined) for name in joined[0]}

    ensemble = {name: (kind, content) for name, kind, content in tensors_of("ensemble", rows)}
    for leaf in leaves(space):
        content = b"".join(row[leaf.name] for row in expected)
        assert ensemble.pop(leaf.name) == (leaf.triton, content)
    assert set(ensemble) == {"deterministic", "seed", "row"}

    # Cut, picked and joined again they are the same rows.
    pieces = rows.split(3)
    assert [piece.count for piece in pieces] == [3, 1]
    assert Rows.join(pieces) == rows
    assert rows.pick([3, 0]).contents() == [rows.contents()[3], rows.contents()[0]]


BAD: list[Any] = [
    None,
    True,
    "x",
    "AAAA",
    -1,
    2.0,
    0.5,
    1e39,
    -(2**70),
    [],
    [0],
    {},
    {"f": 1},
]


def spoiled(value: Any, source: random.Random) -> Any:
    """Replace, add or remove something somewhere in a value."""
    if isinstance(value, dict) and value and source.random() < 0.9:
        key = source.choice(list(value))
        if source.random() < 0.2:
            return {name: one for name, one in value.items() if name != key}
        if source.random() < 0.2:
            return {**value, f"{key}x": 1}
        return {**value, key: spoiled(value[key], source)}
    if isinstance(value, list) and value and source.random() < 0.8:
        index = source.randrange(len(value))
        if source.random() < 0.2:
            return source.choice([value[:index], [*value, value[index]]])
        return [*value[:index], spoiled(value[index], source), *value[index + 1 :]]
    return source.choice(BAD)


@given(SPACES, SEEDS, st.sampled_from(["lists", "base64"]))
@settings(deadline=None, max_examples=400)
def test_what_is_wrong_is_what_the_reference_says(
    data: dict[str, Any], seed: int, binary: str
) -> None:
    """The first field that is found is one that the reference names, or lies in it."""
    space = parse_space(data, "space")
    source = random.Random(seed)
    value = spoiled(value_of(space, source, binary), source)
    body = json.dumps({"observations": [value, value]}).encode()
    expected = check(space, value, "observations.0")
    found = problems(codec_of(space), body)
    if not expected or image(value):
        return
    assert found, (value, expected)
    # Of a list that is too short, an element may be found first.
    assert any(f"{found[0]}.".startswith(f"{one.field}.") for one in expected), (found, expected)


def image(value: Any) -> bool:
    return isinstance(value, dict) and bool({"png", "jpeg"} & set(value))


def problems(codec: Codec, body: bytes, form: str = JSON) -> list[str]:
    try:
        try:
            request = codec.read_request[form](body)
        except NOT_READ:
            request = codec.read_request_apart(body, form)
        codec.pack(request.observations)
    except ValidationFailed as error:
        return [one["field"] for one in error.details["validation_errors"]]
    return []


WIDE = Dict((("scan", Box("float32", (70,), 0.0, 1.0)), ("light", Discrete(3))))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.5, 1.5])
def test_numbers_in_bytes_are_checked(bad: float) -> None:
    scan = np.full(70, 0.5, np.float32)
    good = {"scan": scan.tobytes(), "light": 1}
    scan[33] = bad
    wrong = {"scan": scan.tobytes(), "light": 1}
    body = msgspec.msgpack.encode({"observations": [good, wrong, wrong]})
    found = problems(codec_of(WIDE), body, MSGPACK)
    assert found == ["observations.1.scan.33", "observations.2.scan.33"]


def test_lists_have_so_many_numbers_at_most() -> None:
    codec = codec_of(Box("float32", (300,), 0.0, 1.0))
    rows = MAX_NUMBERS // 300
    lists, content = [0.5] * 300, np.full(300, 0.5, np.float32).tobytes()
    for more, expected in ((content, []), (lists, ["observations"])):
        body = msgspec.msgpack.encode({"observations": [lists] * rows + [more]})
        assert problems(codec, body, MSGPACK) == expected


def test_bounds_of_single_elements() -> None:
    space = Tuple((Box("float32", (2,), (0.0, -3.2), (60.0, 3.2)), Box("int32", (), 0, 5)))
    codec = codec_of(space)
    assert problems(codec, b'{"observations": [[[60, -3.2], 5]]}') == []
    for body, field in (
        (b"[[60.5, 0], 5]", "0.0"),
        (b"[[-1, 0], 5]", "0.0"),
        (b"[[0, -3.3], 5]", "0.1"),
        (b"[[0, 0], 6]", "1"),
        (b"[[0, 0]]", ""),
        (b"[[0, 0], 5, 5]", ""),
        (b"[[0], 5]", "0"),
        (b"{}", ""),
    ):
        path = f"observations.0.{field}".rstrip(".")
        assert problems(codec, b'{"observations": [%s]}' % body) == [path]


def test_keys_that_no_struct_may_have() -> None:
    space = Dict((('a"b', Box("float32", (), 0.0, 1.0)), ("c\n", Discrete(2))))
    codec = codec_of(space)
    good = {'a"b': 0.5, "c\n": 1}
    rows = rows_of(codec, space, [good, good], "lists", None)
    assert [row[1:] for row in rows.contents()] == [
        (np.float32(0.5).tobytes(), np.int64(1).tobytes())
    ] * 2
    body = msgspec.json.encode({"observations": [good, good]})
    _, packed = asyncio.run(codec.read_large(read_envelope(body, JSON), JSON))
    assert (packed[0], *packed[1]) == (rows.observations, *rows.others)
    body = msgspec.json.encode({"observations": [good, {'a"b': 2, "c\n": 2}]})
    assert problems(codec, body) == ['observations.1.a"b', "observations.1.c\n"]


def test_texts_make_no_other_codec() -> None:
    assert codec_of(Box("float32", (2,), 0.0, 1.0, "m")) is codec_of(Box("float32", (2,), 0.0, 1.0))


def test_a_problem_has_the_form_of_the_reference() -> None:
    body = msgspec.msgpack.encode({"observations": [{"scan": [2.0] * 70, "light": 5}]})
    with pytest.raises(ValidationFailed) as raised:
        codec_of(WIDE).read_request_apart(body, MSGPACK)
    (problem,) = raised.value.details["validation_errors"]
    assert set(problem) == set(Problem._fields)
    assert problem["field"] == "observations.0.scan.0"
