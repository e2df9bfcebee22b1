"""Observations: checked by path, packed, and back; their schema and their example."""

from __future__ import annotations

import base64
import json
import math
import random
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.api.observations import Observations
from gateway.api.problems import JSON, NOT_READ, problem
from policy_spec.example import example
from policy_spec.images import fault
from policy_spec.json_schema import observation_schema, policy_action_schema
from policy_spec.leaves import leaves
from policy_spec.parsing import parse_space
from policy_spec.signature import driving_space
from policy_spec.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from policy_spec.validate import MAX_LIST, Image, InvalidError, check, pack, unpack
from tests.gateway.image_files import BY_HEADER, encoded, picture
from tests.gateway.image_files import JPEG as IMAGE_JPEG
from tests.gateway.image_files import PNG as IMAGE_PNG
from tests.policy_spec.strategies import SPACES, value_of

SEEDS = st.integers(0, 2**32)
PIXELS = Box("uint8", (9, 8, 3), 0, 255)
SPACE = Dict(
    (
        ("speed", Box("float32", (), 0.0, 200.0)),
        ("lidar", Box("float32", (2, 2), (0.0, 0.0, -1.0, 0.0), 1.0)),
        ("free", Box("float32", (), -math.inf, math.inf)),
        ("camera", PIXELS),
        ("wide", Box("float32", (65,), -1.0, 1.0)),
        ("light", Discrete(3, 1)),
        ("gears", MultiDiscrete((2, 3), (0, 1))),
        ("pair", Tuple((MultiBinary((2,)), Discrete(2)))),
    )
)
PNG = base64.b64encode(encoded(picture(1, (9, 8)))).decode()
GOOD: dict[str, Any] = {
    "speed": 30,
    "lidar": [[0, 0.5], [-1, 1.0]],
    "free": -1e30,
    "camera": base64.b64encode(bytes(216)).decode(),
    "wide": [0] * 65,
    "light": 3,
    "gears": [1, 3],
    "pair": [[0, 1], 1],
}
NESTED = [[[0] * 3] * 8] * 9


@given(SPACES, SEEDS)
@settings(deadline=None)
def test_bytes_survive_json_and_msgpack(data: dict[str, Any], seed: int) -> None:
    space = parse_space(data, "space")
    value = value_of(space, random.Random(seed))
    assert check(space, value) == []
    row: Any = pack(space, value)
    assert {leaf.name: leaf.nbytes for leaf in leaves(space)} == {n: len(b) for n, b in row.items()}
    for binary in ("lists", "base64", "bytes"):
        again = unpack(space, row, binary)  # type: ignore[arg-type]
        assert pack(space, msgspec.msgpack.decode(msgspec.msgpack.encode(again))) == row
        if binary != "bytes":
            assert pack(space, json.loads(json.dumps(again))) == row
            assert pack(space, msgspec.json.decode(msgspec.json.encode(again))) == row
        # The same values, drawn in that form.
        assert pack(space, value_of(space, random.Random(seed), binary)) == row


@given(SPACES, SEEDS)
@settings(deadline=None, max_examples=60)
def test_the_schema_accepts_what_is_valid(data: dict[str, Any], seed: int) -> None:
    space = parse_space(data, "space")
    schema = observation_schema(space)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for binary in ("lists", "base64"):
        validator.validate(value_of(space, random.Random(seed), binary))
    plain = jsonschema.Draft202012Validator(policy_action_schema(space))
    plain.validate(value_of(space, random.Random(seed)))


@given(SPACES, SEEDS)
@settings(deadline=None)
def test_examples_are_valid_and_repeat(data: dict[str, Any], seed: int) -> None:
    space = parse_space(data, "space")
    found = example(space, seed)
    assert check(space, found) == []
    assert json.loads(json.dumps(found, allow_nan=False)) == example(space, seed)
    jsonschema.Draft202012Validator(observation_schema(space)).validate(found)


def test_the_example_of_today() -> None:
    sensors = [0.8, 0.2, 0.5, 0.9, 0.1]
    assert example(driving_space(5)) == {"speed": 25.5, "steering": 0.1, "sensors": sensors}
    assert len(example(driving_space(7))["sensors"]) == 7
    drawn = example(driving_space(5), 1)
    assert drawn != example(driving_space(5), 2)
    assert check(driving_space(5), drawn) == []


def test_good() -> None:
    assert check(SPACE, GOOD) == []
    jsonschema.Draft202012Validator(observation_schema(SPACE)).validate(GOOD)


NUMBER, INTEGER, ARRAY = "float_type", "int_type", "list_type"


@pytest.mark.parametrize(
    ("change", "field", "message", "kind"),
    [
        ({"other": 1}, "other", "There is no such field", "extra_forbidden"),
        ({"speed": True}, "speed", "Expected `float`, got `bool`", NUMBER),
        ({"speed": "30"}, "speed", "Expected `float`, got `str`", NUMBER),
        ({"speed": None}, "speed", "Expected `float`, got `null`", NUMBER),
        ({"speed": [30]}, "speed", "Expected `float`, got `array`", NUMBER),
        ({"speed": {"a": 1}}, "speed", "Expected `float`, got `object`", NUMBER),
        ({"speed": 200.00001}, "speed", "Expected `float` <= 200.0", "less_than_equal"),
        ({"speed": -1e-9}, "speed", "Expected `float` >= 0.0", "greater_than_equal"),
        ({"speed": math.nan}, "speed", "Number out of range", "finite_number"),
        ({"free": math.inf}, "free", "Number out of range", "finite_number"),
        ({"free": 1e39}, "free", "Expected `float` <= 3.4028234663852886e+38", "less_than_equal"),
        ({"free": 10**400}, "free", "Expected `float` <= 3.4", "less_than_equal"),
        ({"lidar": []}, "lidar", "Expected `array` of length 2", "wrong_length"),
        ({"lidar": [[], []]}, "lidar.0", "Expected `array` of length 2", "wrong_length"),
        ({"lidar": [[0, 0]] * 3}, "lidar", "Expected `array` of length 2", "wrong_length"),
        ({"lidar": [0, 0]}, "lidar.0", "Expected `array`, got `int`", ARRAY),
        ({"lidar": [[0, [0]], [0, 0]]}, "lidar.0.1", "Expected `float`, got `array`", NUMBER),
        (
            {"lidar": [[0, 0], [0, -1]]},
            "lidar.1.1",
            "Expected `float` >= 0.0",
            "greater_than_equal",
        ),
        ({"lidar": PNG}, "lidar", "Expected `array`, got `str`", ARRAY),
        ({"light": 0}, "light", "Expected `int` >= 1", "greater_than_equal"),
        ({"light": 4}, "light", "Expected `int` <= 3", "less_than_equal"),
        ({"light": 2.0}, "light", "Expected `int`, got `float`", INTEGER),
        ({"light": True}, "light", "Expected `int`, got `bool`", INTEGER),
        ({"gears": [1]}, "gears", "Expected `array` of length 2", "wrong_length"),
        ({"gears": [1, 0]}, "gears.1", "Expected `int` >= 1", "greater_than_equal"),
        ({"pair": [[0, 2], 1]}, "pair.0.1", "Expected `int` <= 1", "less_than_equal"),
        ({"pair": [[0, True], 1]}, "pair.0.1", "Expected `int`, got `bool`", INTEGER),
        ({"pair": [[0, 1]]}, "pair", "Expected `array` of length 2", "wrong_length"),
        ({"pair": {"0": 1}}, "pair", "Expected `array`, got `object`", ARRAY),
        ({"camera": "AAAA AAA"}, "camera", "Invalid base64 encoded string", "invalid_value"),
        ({"camera": GOOD["camera"] + "\n"}, "camera", "Invalid base64", "invalid_value"),
        ({"camera": "AAA"}, "camera", "Invalid base64 encoded string", "invalid_value"),
        ({"camera": "AAAA"}, "camera", "Expected 216 bytes, got 3", "too_short"),
        ({"camera": bytes(217)}, "camera", "Expected 216 bytes, got 217", "too_long"),
        ({"camera": {}}, "camera", "Expected one of the fields png, jpeg", "model_type"),
        ({"camera": {"gif": PNG}}, "camera", "Expected one of the fields", "model_type"),
        ({"camera": {"png": 1}}, "camera.png", "Expected `bytes`, got `int`", "bytes_type"),
        ({"camera": {"jpeg": PNG}}, "camera", "Expected a JPEG image", "image_invalid"),
        ({"camera": {"png": PNG}}, "camera", "Expected an image in RGB", "image_invalid"),
        ({"camera": {"png": "A"}}, "camera.png", "Invalid base64", "invalid_value"),
        ({"camera": NESTED[:8]}, "camera", "Expected `array` of length 9", "wrong_length"),
        ({"wide": {"png": PNG}}, "wide", "Expected `array`, got `object`", ARRAY),
    ],
)
def test_bad(change: dict[str, Any], field: str, message: str, kind: str) -> None:
    (problem,) = check(SPACE, GOOD | change, "observations.3")
    assert problem.field == f"observations.3.{field}"
    assert problem.message.startswith(message)
    assert problem.type == kind
    with pytest.raises(InvalidError, match="observations.3"):
        pack(SPACE, GOOD | change, "observations.3")


def test_bad_numbers_in_bytes() -> None:
    wide = Box("float32", (5, 13), -1.0, 1.0)
    for bad, kind in ((math.nan, "finite_number"), (1.5, "less_than_equal")):
        numbers = [0.0] * 65
        numbers[27] = bad
        (problem,) = check(wide, wide.element.pack(numbers))
        assert (problem.field, problem.type) == ("observation.2.1", kind)


def test_every_leaf_is_told() -> None:
    found = check(SPACE, {"speed": -1, "light": "red"})
    assert [one.field.removeprefix("observation.") for one in found] == list(SPACE.parts)
    assert {one.type for one in found[1:5]} == {"missing"}
    (problem,) = check(SPACE, [1])
    assert problem == ("observation", "Expected `object`, got `array`", "model_type")


def test_images_stay_encoded() -> None:
    for shape in ((9, 8), (9, 8, 1), (9, 8, 3)):
        space = Box("uint8", shape, 0, 255)
        for name in ("png", "jpeg"):
            content = encoded(picture(1, shape[:2] + (3,) * (shape[2:] == (3,))), name)
            value = {name: base64.b64encode(content).decode()}
            assert pack(space, value) == {"observation": Image(content)}
            assert pack(space, {name: content}) == {"observation": Image(content)}
            jsonschema.validate(value, observation_schema(space))
    for space in (Box("uint8", (3, 9, 8), 0, 255), Box("float32", (9, 8), 0, 255)):
        assert check(space, {"png": PNG})
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"png": PNG}, observation_schema(space))


@pytest.mark.parametrize("name", BY_HEADER)
def test_what_the_header_of_an_image_tells(name: str) -> None:
    value, message = BY_HEADER[name]
    (problem,) = check(Box("uint8", (96, 96, 3), 0, 255), value)
    assert problem.field == "observation"
    assert message in problem.message
    assert problem.type == "image_invalid" or len(value) != 1


@given(st.sampled_from([IMAGE_PNG, IMAGE_JPEG]), st.data())
@settings(deadline=None)
def test_no_header_breaks_the_check(content: bytes, data: st.DataObject) -> None:
    """Whatever is cut off or changed, it is a fault or none."""
    changed = bytearray(content[: data.draw(st.integers(0, 700))])
    for at in data.draw(st.lists(st.integers(0, 699), max_size=4)):
        if at < len(changed):
            changed[at] = data.draw(st.integers(0, 255))
    fault((96, 96, 3), bytes(changed))


def test_bytes_only_where_they_are_allowed() -> None:
    small = Box("uint8", (64,), 0, 255)
    assert check(small, base64.b64encode(bytes(64)).decode())
    assert check(Box("uint8", (65,), 0, 255), base64.b64encode(bytes(65)).decode()) == []
    assert check(MultiBinary((70,)), bytes(70))


def test_more_numbers_than_lists_may_have() -> None:
    space = Box("uint8", (MAX_LIST + 1,), 0, 255)
    (problem,) = check(space, [0] * (MAX_LIST + 1))
    assert problem.message == f"Expected bytes: it has more than {MAX_LIST} numbers"
    assert check(space, bytes(MAX_LIST + 1)) == []
    assert observation_schema(space)["type"] == "string"


BAD: list[Any] = [True, "1", None, [1], {}, {"a": 1}, 200.00001, -1e-9, 1000.5, -1001, 1e30]


@pytest.mark.parametrize("bad", [*BAD, [], [0] * 4, [0] * 6, [0, 0, 0, 0, "a"], [0, 0, 1001, 0, 0]])
@pytest.mark.parametrize("name", ["speed", "steering", "sensors", "other"])
def test_problems_are_those_of_the_gateway(name: str, bad: Any) -> None:
    value = example(driving_space(5)) | {name: bad}
    expected = []
    try:
        msgspec.json.decode(json.dumps(value), type=Observations(driving_space(5)).type)
    except NOT_READ as error:
        expected = [problem(error, JSON, "observations.3")]
    found = check(driving_space(5), value, "observations.3")
    assert [one._asdict() for one in found] == expected
