"""Cards, controls, and what two signatures have in common."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_spec.checks import SpecError
from policy_spec.control import Lookup, Scaled
from policy_spec.control_parsing import parse_control
from policy_spec.json_schema import action_schema
from policy_spec.leaves import RASTER_ELEMENTS, RESERVED
from policy_spec.parsing import parse_space
from policy_spec.signature import Signature, StateLeaf, driving_space
from policy_spec.spaces import Box, Discrete, MultiBinary, MultiDiscrete, to_data
from tests.policy_spec.controls import apply, numbers
from tests.policy_spec.strategies import SPACES
from tests.stack import ROOT

DRIVING = to_data(driving_space(5))
PEDALS = {"type": "Box", "dtype": "float32", "shape": [3], "low": [0, 0, -1], "high": 1}
CARD: dict[str, Any] = {
    "model_name": "any",
    "observation_space": DRIVING,
    "action_space": PEDALS,
    "control": {"layout": ["throttle", "brake", "steer"]},
    "distribution": {"noise": "normal"},
}
TODAY: dict[str, Any] = {
    "sensors": 5,
    "action": {"layout": ["throttle", "brake", "steer"], "low": [0, 0, -1], "high": [1, 1, 1]},
    "distribution": {"std": "parameter", "squash": "clip"},
}


@pytest.mark.parametrize("version", ["v0.1.0", "v0.2.0"])
def test_todays_cards_are_lifted(version: str) -> None:
    card = yaml.safe_load((ROOT / "artifacts" / version / "model_card.yaml").read_text())
    signature = Signature.from_card(card)
    assert signature == Signature.from_card(TODAY) == Signature.from_card(CARD)
    assert signature.sensors == 5
    assert signature.is_driving_form
    assert not signature.stateful
    assert (signature.noise, signature.noise_width, signature.repeat) == ("normal", 3, 1)
    layout = signature.layout
    assert (layout.width, layout.apart) == (7, ())
    slots = [(slot.leaf.name, slot.offset) for slot in layout.packed]
    assert slots == [("speed", 0), ("steering", 1), ("sensors", 2)]
    assert signature.control is not None
    assert signature.control.ranges == {"throttle": (0, 1), "brake": (0, 1), "steer": (-1, 1)}
    assert apply(signature.control, [0.25, 0.0, -0.5]) == dict(throttle=0.25, brake=0.0, steer=-0.5)


def test_todays_card_with_wider_bounds_clips() -> None:
    action = {"layout": ["acceleration", "steer"], "low": [-2, -1], "high": [2, 1]}
    signature = Signature.from_card(TODAY | {"action": action, "distribution": {}})
    assert signature.noise == "normal"  # callers of older cards always got an answer
    assert signature.control is not None
    assert signature.control.scale == ("clip", None)
    assert apply(signature.control, [-1.5, 0.5]) == {"throttle": 0.0, "brake": 1.0, "steer": 0.5}


@given(SPACES)
@settings(deadline=None, max_examples=50)
def test_what_is_written_reads_back(data: dict[str, Any]) -> None:
    state = {"hidden": {"dtype": "float32", "shape": [2, 64]}}
    card = CARD | {"observation_space": data, "state": state, "repeat": 4}
    signature = Signature.from_card(card)
    again = Signature.from_card(json.loads(json.dumps(signature.to_data(), allow_nan=False)))
    assert again == signature
    assert again.digest() == signature.digest()
    assert signature.state == (StateLeaf("hidden", "float32", (2, 64)),)
    assert signature.same_interface(again)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"distribution": {"noise": "none"}}, False),
        ({"action_space": PEDALS | {"description": "Other."}}, True),
        (
            {"action_space": PEDALS | {"low": -1}, "control": CARD["control"] | {"scale": "clip"}},
            True,
        ),
        ({"observation_space": to_data(driving_space(6))}, False),
        ({"control": None}, False),
        ({"repeat": 2}, False),
        ({"state": {"h": {"dtype": "float32", "shape": [1]}}}, False),
    ],
)
def test_same_interface(change: dict[str, Any], same: bool) -> None:
    one, other = Signature.from_card(CARD), Signature.from_card(CARD | change)
    assert one.same_interface(other) is other.same_interface(one) is same
    assert (one.digest() == other.digest()) is (change == {})


def test_texts_and_units() -> None:
    space = json.loads(json.dumps(DRIVING))
    del space["subspaces"]["speed"]["unit"]
    other = Signature.from_card(CARD | {"observation_space": space})
    assert other.is_driving_form
    assert not other.same_interface(Signature.from_card(CARD))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sensors": 5}, "sensors: is a field of older cards"),
        ({"action_space": DRIVING}, "action_space: must be one of Box, Discrete"),
        ({"control": {}}, "control: layout is missing"),
        ({"control": []}, "control: must be a mapping"),
        ({"repeat": 0}, "repeat: must be an integer from 1"),
        ({"state": []}, None),
        ({"state": [1]}, "state: must be a mapping"),
        ({"state": {"h": {"dtype": "x", "shape": []}}}, r"state\.h\.dtype: must be one of"),
        ({"state": {1: {}}}, "state: must be text"),
        ({"distribution": {"noise": "gumbel"}}, "of a Box must be normal or none, not 'gumbel'"),
        ({"distribution": []}, None),
        ({"distribution": "normal"}, "distribution: must be a mapping"),
    ],
)
def test_refused(change: dict[str, Any], message: str | None) -> None:
    if message is None:
        Signature.from_card(CARD | change)
        return
    with pytest.raises(SpecError, match=message):
        Signature.from_card(CARD | change)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({}, "observation_space: is missing"),
        ({"observation_space": DRIVING}, "action_space: is missing"),
        ({"sensors": 5}, "observation_space: is missing"),
        (TODAY | {"sensors": 0}, "sensors: must be an integer"),
        (TODAY | {"action": TODAY["action"] | {"layout": 3}}, r"action\.layout: must be a list"),
        (TODAY | {"action": TODAY["action"] | {"low": [0]}}, r"action\.low: must be a list of 3"),
        (
            TODAY | {"action": {"layout": ["steer"], "low": [-1], "high": [1]}},
            r"action\.layout: must be throttle, brake, steer or steer, acceleration",
        ),
    ],
)
def test_cards_without_a_signature(card: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Signature.from_card(card)


@pytest.mark.parametrize(
    ("action", "noise", "width"),
    [
        ({"type": "Discrete", "n": 9}, "gumbel", 9),
        ({"type": "MultiDiscrete", "nvec": [3, 5]}, "gumbel", 8),
        ({"type": "MultiBinary", "n": 4}, "logistic", 4),
        (PEDALS, "none", 0),
    ],
)
def test_noise(action: dict[str, Any], noise: str, width: int) -> None:
    card = {"observation_space": DRIVING, "action_space": action}
    assert Signature.from_card(card).noise == noise
    signature = Signature.from_card(card | {"distribution": {"noise": noise}})
    assert (signature.noise, signature.noise_width) == (noise, width)
    assert not signature.is_driving_form


def box(low: Any, high: Any, width: int) -> Any:
    data = {"type": "Box", "dtype": "float32", "shape": [width], "low": low, "high": high}
    return parse_space(data, "action_space")


def test_linear() -> None:
    layout = ["brake", "steer", "throttle", "reverse"]
    data = {"layout": layout, "scale": dict.fromkeys(layout, "linear")}
    control = parse_control(data, box([0, -0.5, -1, -1], [5, 2, 1, 1], 4))
    assert control.names == ("throttle", "brake", "steer", "reverse")

    def applied(*action: float) -> list[Any]:
        return list(apply(control, list(action)).values())

    assert applied(0, -0.5, -1, -1) == [0, 0, -1, False]
    assert applied(5, 2, 1, 1) == [1, 1, 1, True]
    assert applied(2.5, 0, 0, 0.1) == [0.5, 0.5, 0, True]
    assert applied(2.5, 0, 0, 0) == [0.5, 0.5, 0, False]
    assert control.ranges["reverse"] == (0, 1)
    assert parse_control(control.to_data(), box([0, -0.5, -1, -1], [5, 2, 1, 1], 4)) == control


def test_acceleration_is_split() -> None:
    data = {"layout": ["steer", "acceleration"], "scale": "linear"}
    control = parse_control(data, box([-1, -4], [1, 2], 2))
    assert control.to_data() == {
        "layout": ["steer", "acceleration"],
        "scale": {"acceleration": "linear"},
    }
    for acceleration, throttle, brake in ((2, 1, 0), (1, 0.5, 0), (0, 0, 0), (-1, 0, 0.25)):
        found = apply(control, [0.5, acceleration])
        assert found == {"throttle": throttle, "brake": brake, "steer": 0.5}
    assert apply(parse_control(data | {"scale": "clip"}, box([-1, -4], [1, 2], 2)), [0, -3]) == {
        "throttle": 0,
        "brake": 1,
        "steer": 0,
    }


def test_table() -> None:
    rows = [{}, {"throttle": 1}, {"acceleration": -0.5, "steer": -1}, {"reverse": True}]
    space = Discrete(4, start=1)
    control = parse_control({"table": rows}, space)
    assert control.names == ("throttle", "brake", "steer", "reverse")
    assert all(isinstance(column, Lookup) for column in control.columns)
    assert apply(control, 1) == {"throttle": 0, "brake": 0, "steer": 0, "reverse": False}
    assert apply(control, 3) == {"throttle": 0, "brake": 0.5, "steer": -1, "reverse": False}
    assert apply(control, 4)["reverse"] is True
    assert numbers(control, 4) == [0, 0, 0, 1.0]
    assert control.to_data() == {"table": rows}
    assert parse_control(control.to_data(), space) == control


def test_axes() -> None:
    space = MultiDiscrete((3, 2), (0, 1))
    data = {"axes": [{"acceleration": [-1, 0, 0.5]}, {"steer": [-1, 1]}]}
    control = parse_control(data, space)
    assert apply(control, [2, 1]) == {"throttle": 0.5, "brake": 0, "steer": -1}
    assert apply(control, [0, 2]) == {"throttle": 0, "brake": 1, "steer": 1}
    assert control.to_data() == data
    short = {"axes": {"acceleration": [-1, 0, 0.5], "steer": [-1, 1]}}
    assert parse_control(short, space) == parse_control(control.to_data(), space) == control


PEDAL_BOX, STEP, PAIR = box([0, 0, -1], 1, 3), Discrete(2), MultiDiscrete((2, 2), (0, 0))
LAYOUT = {"layout": ["throttle", "brake", "steer"]}


@pytest.mark.parametrize(
    ("data", "space", "message"),
    [
        (LAYOUT, box(-1, 1, 3), r"control\.scale\.throttle: is missing: .* -1\.0 to 1\.0, the con"),
        (LAYOUT | {"scale": "stretch"}, PEDAL_BOX, "must be linear or clip, not 'stretch'"),
        (LAYOUT | {"scale": {"stear": "clip"}}, PEDAL_BOX, r"control\.scale: 'stear' is no field"),
        (LAYOUT | {"scale": "linear"}, box("-inf", 1, 3), "linear needs a finite range"),
        (LAYOUT | {"scale": "linear"}, box(1, 1, 3), "linear needs a finite range"),
        (LAYOUT | {"scale": "linear"}, box(0, 1, 3), "numbers on both sides of it, not 0 to 1"),
        (LAYOUT, box(0, 1, 2), "has 3 names, and the action's shape is \\[2\\]"),
        ({"layout": ["throttle", "steer"]}, box(0, 1, 2), "must be throttle, brake, steer or"),
        ({"layout": ["steer", "steer", "acceleration"]}, PEDAL_BOX, "each element once"),
        ({"layout": "steer"}, PEDAL_BOX, "must be a list of names"),
        ({"table": [{}, {}]}, PEDAL_BOX, "control: layout is missing"),
        ({"table": [{}]}, STEP, "must be a list of 2 controls"),
        ({"table": [{}, {"gas": 1}]}, STEP, r"control\.table\.1: 'gas' is no field"),
        ({"table": [{}, {"throttle": 2}]}, STEP, r"1\.throttle: must be a number from 0\.0 to 1"),
        ({"table": [{}, {"throttle": True}]}, STEP, "must be a number"),
        ({"table": [{}, {"reverse": 0.5}]}, STEP, "must be true or false"),
        ({"table": [{}, {"throttle": 1, "acceleration": 1}]}, STEP, "name it, or those two"),
        ({"axes": [{"steer": [0, 1]}]}, PAIR, "must be 2 names with values"),
        ({"axes": [{"steer": [0, 1]}, {"steer": [0, 1]}]}, PAIR, "not name a control twice"),
        ({"axes": [{"steer": [0, 1]}, {"brake": [0]}]}, PAIR, r"1\.brake: must be a list of 2"),
        ({"axes": [{"steer": [0, 1]}, {}]}, PAIR, r"control\.axes\.1: must have one name"),
        ({"axes": [{"brake": [0, 1]}, {"acceleration": [0, 1]}]}, PAIR, "or those two"),
        (LAYOUT, MultiBinary((3,)), "a MultiBinary can't be mapped"),
    ],
)
def test_wrong_controls(data: Any, space: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_control(data, space)


@given(st.data())
def test_controls_stay_in_range_and_keep_zero(data: st.DataObject) -> None:
    ends = st.floats(0.0078125, 1e6, width=32)
    low = [-data.draw(ends) for _ in range(2)]
    high = [data.draw(ends) for _ in range(2)]
    space = box(low, high, 2)
    control = parse_control({"layout": ["steer", "acceleration"], "scale": "linear"}, space)
    assert isinstance(control.columns[0], Scaled)
    assert numbers(control, [0.0, 0.0]) == [0, 0, 0]
    assert numbers(control, high) == pytest.approx([1, 0, 1])
    assert numbers(control, low) == pytest.approx([0, 1, -1])
    share = [data.draw(st.floats(0, 1)) for _ in range(2)]
    action = [l + s * (h - l) for l, s, h in zip(low, share, high, strict=True)]  # noqa: E741
    found = apply(control, action)
    for name, (least, most) in control.ranges.items():
        assert least <= found[name] <= most


def test_schema_of_actions() -> None:
    with_control = Signature.from_card(CARD)
    assert with_control.control is not None
    schema = action_schema(with_control)
    jsonschema.validate(apply(with_control.control, [1, 0, 0]), schema)
    assert schema["properties"]["steer"] == {"type": "number", "minimum": -1, "maximum": 1}
    step = {"observation_space": DRIVING, "action_space": {"type": "Discrete", "n": 3, "start": 1}}
    assert action_schema(Signature.from_card(step)) == {
        "type": "integer",
        "minimum": 1,
        "maximum": 3,
    }
    table = step | {"control": {"table": [{}, {"hand_brake": True}, {"throttle": 1}]}}
    schema = action_schema(Signature.from_card(table))
    assert schema["properties"]["hand_brake"] == {"type": "boolean"}
    assert isinstance(Signature.from_card(CARD).action_space, Box)


def documented() -> list[dict[str, Any]]:
    text = (ROOT / "docs" / "SIGNATURE.md").read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(block) for block in blocks]


def test_the_documents_cards() -> None:
    *cards, memory = documented()
    default, table, axes, camera = map(Signature.from_card, cards)
    assert [leaf.shape for leaf in Signature.from_card(cards[0] | memory).state] == [(2, 64)] * 2
    assert default.is_driving_form
    assert default.same_interface(Signature.from_card(TODAY))
    assert [one.noise for one in (table, axes, camera)] == ["gumbel", "gumbel", "normal"]
    controls = [one.control for one in (table, axes, camera)]
    actions = (0, [2, 0], [0.5, -2.5])
    found = [apply(c, action) for c, action in zip(controls, actions, strict=True)]
    assert found == [
        {"throttle": 0.5, "brake": 0.0, "steer": -0.4},
        {"throttle": 0.0, "brake": 1.0, "steer": 0.5},
        {"throttle": 0.0, "brake": 0.5, "steer": 0.5},
    ]
    assert camera.layout.width == 2
    assert [leaf.name for leaf in camera.layout.apart] == ["camera"]


def test_the_documents_names() -> None:
    text = (ROOT / "docs" / "SIGNATURE.md").read_text()
    assert {name for name in RESERVED if f"`{name}`" in text} == RESERVED
    assert f"more than {RASTER_ELEMENTS} elements" in text


@pytest.mark.parametrize(
    ("layout", "low", "high", "apart"),
    [
        (["throttle", "brake", "steer"], [0, 0, -1], 1, False),
        (["steer", "throttle", "brake"], [-1, 0, 0], 1, True),
        (["throttle", "brake", "steer"], [0, 0, -1], [1, 0.5, 1], True),
        (["steer", "acceleration"], -1, 1, True),
        (["throttle", "brake", "steer", "reverse"], [0, 0, -1, 0], 1, True),
    ],
)
def test_the_policys_own_action_is_told_apart(
    layout: list[str], low: Any, high: Any, apart: bool
) -> None:
    action = to_data(box(low, high, len(layout)))
    scale = {"brake": "clip"} if isinstance(high, list) else {}
    card = {"observation_space": DRIVING, "action_space": action}
    assert not Signature.from_card(card).has_policy_action
    control = {"layout": layout, "scale": scale}
    assert Signature.from_card(card | {"control": control}).has_policy_action is apart
