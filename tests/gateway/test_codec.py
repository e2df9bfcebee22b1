"""What may be in a request's body, at every bound, inside and outside."""

import json
import math
import tracemalloc
from typing import Any

import msgspec
import pytest

from gateway.api import codec
from gateway.api.codec import PredictRequest, codec_of
from gateway.api.errors import ValidationFailed
from gateway.api.problems import JSON, MSGPACK, NOT_READ
from policy_spec.signature import driving_space
from policy_spec.spaces import Box
from tests.gateway.processes import OBSERVATION


def body(**changes: Any) -> bytes:
    return json.dumps({"observations": [{**OBSERVATION, **changes}]}).encode()


def decode_predict(content: bytes, sensors: int = 5, form: str = JSON) -> PredictRequest:
    """Decode as requests are: as a whole, and apart where that fails."""
    decoder = codec.codec_of(driving_space(sensors))
    try:
        return decoder.read_request[form](content)
    except NOT_READ:
        return decoder.read_request_apart(content, form)


def decoded(content: bytes) -> dict[str, Any]:
    (observation,) = decode_predict(content).observations
    content_of: dict[str, Any] = msgspec.to_builtins(observation)
    return content_of


def problems(content: bytes) -> list[tuple[str, str]]:
    with pytest.raises(ValidationFailed) as raised:
        decode_predict(content)
    listed = raised.value.details["validation_errors"]
    assert all(set(p) == {"field", "message", "type"} and p["message"] for p in listed)
    return [(p["field"], p["type"]) for p in listed]


@pytest.mark.parametrize(
    ("field", "inside", "below", "above"),
    [("speed", (0, 200, 0.0, -0.0), -1e-9, 200.00001), ("steering", (-1, 1, 0), -1.0001, 1.0001)],
)
def test_bounds(field: str, inside: tuple[float, ...], below: float, above: float) -> None:
    for value in inside:
        assert decoded(body(**{field: value}))[field] == value
    assert problems(body(**{field: below})) == [(f"observations.0.{field}", "greater_than_equal")]
    assert problems(body(**{field: above})) == [(f"observations.0.{field}", "less_than_equal")]


def test_bounds_of_sensors() -> None:
    edges = [-1000, 1000, 0, -0.0, 1e-9]
    assert decoded(body(sensors=edges))["sensors"] == tuple(edges)
    for index, bad, kind in ((1, 1000.5, "less_than_equal"), (0, -1000.5, "greater_than_equal")):
        sensors = [0.0] * 5
        sensors[index] = bad
        assert problems(body(sensors=sensors)) == [(f"observations.0.sensors.{index}", kind)]


@pytest.mark.parametrize("bad", [True, "1", None, [1], {"a": 1}])
@pytest.mark.parametrize("field", ["speed", "steering"])
def test_only_numbers_are_numbers(field: str, bad: Any) -> None:
    assert problems(body(**{field: bad})) == [(f"observations.0.{field}", "float_type")]
    assert problems(body(sensors=[bad, 0, 0, 0, 0])) == [("observations.0.sensors.0", "float_type")]


@pytest.mark.parametrize("literal", [b"NaN", b"Infinity", b"-Infinity"])
def test_json_has_no_such_numbers(literal: bytes) -> None:
    content = body(speed=987).replace(b"987", literal)
    assert problems(content) == [("body", "json_invalid")]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_msgpack_has_such_numbers(value: float) -> None:
    for changes in ({"speed": value}, {"steering": value}, {"sensors": [1, value, 0, 0, 0]}):
        content = msgspec.msgpack.encode({"observations": [{**OBSERVATION, **changes}]})
        with pytest.raises(ValidationFailed) as raised:
            decode_predict(content, form=MSGPACK)
        (problem,) = raised.value.details["validation_errors"]
        assert problem["field"].startswith(f"observations.0.{next(iter(changes))}")


@pytest.mark.parametrize("literal", [b"1e400", b"-1e400"])
@pytest.mark.parametrize("field", ["speed", "steering"])
def test_only_finite_numbers_are_numbers(field: str, literal: bytes) -> None:
    content = body(**{field: 987}).replace(b"987", literal)
    assert problems(content) == [(f"observations.0.{field}", "finite_number")]
    content = body(sensors=[1, 987, 0, 0, 0]).replace(b"987", literal)
    assert problems(content) == [("observations.0.sensors.1", "finite_number")]


def test_number_of_observations() -> None:
    assert len(decode_predict(_many(1)).observations) == 1
    assert len(decode_predict(_many(1000)).observations) == 1000
    assert problems(_many(0)) == [("observations", "too_short")]
    assert problems(_many(1001)) == [("observations", "too_long")]


def _many(count: int, **more: Any) -> bytes:
    return json.dumps({"observations": [OBSERVATION] * count, **more}).encode()


@pytest.mark.parametrize("seed", [0, 1, 2**53 + 1, 2**63 - 1])
def test_seeds(seed: int) -> None:
    assert decode_predict(_many(1, seed=seed)).seed == seed


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("seed", -1, "greater_than_equal"),
        ("seed", 2**63, "less_than_equal"),
        ("seed", 10**30, "less_than_equal"),
        ("seed", 1.0, "int_type"),
        ("seed", True, "int_type"),
        ("seed", "1", "int_type"),
        ("deterministic", 1, "bool_type"),
        ("deterministic", "true", "bool_type"),
        ("deterministic", None, "bool_type"),
        ("version", 1, "string_type"),
        ("version", "0.1.0", "string_pattern_mismatch"),
        ("version", "v0.1", "string_pattern_mismatch"),
        ("version", "v0.1.0\n", "string_pattern_mismatch"),
        ("version", "", "string_pattern_mismatch"),
        ("determinstic", True, "extra_forbidden"),
    ],
)
def test_bad_options(field: str, value: Any, kind: str) -> None:
    assert problems(_many(1, **{field: value})) == [(field, kind)]


def test_optional_fields() -> None:
    request = decode_predict(_many(1, seed=None, version=None))
    assert (request.seed, request.version, request.deterministic) == (None, None, False)


def test_missing_and_extra_fields() -> None:
    for field in OBSERVATION:
        short = {name: value for name, value in OBSERVATION.items() if name != field}
        content = json.dumps({"observations": [OBSERVATION, short]}).encode()
        assert problems(content) == [(f"observations.1.{field}", "missing")]
    assert problems(b"{}") == [("observations", "missing")]
    assert problems(body(throttle=1)) == [("observations.0.throttle", "extra_forbidden")]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" ",
        b"{",
        b"nonsense",
        body()[:-1],
        body() + b"x",
        body() + body(),
        body().replace(b'"', b"'"),
        b"\xff\xfe",
        body().replace(b"speed", b"spe\xff"),
        b"\xef\xbb\xbf" + body(),
        body().replace(b"25.5", b"01"),
        body().replace(b"25.5", b"0x1"),
    ],
)
def test_malformed(content: bytes) -> None:
    assert problems(content) == [("body", "json_invalid")]


@pytest.mark.parametrize("content", [b"null", b"[]", b"1", b'"x"', b"true"])
def test_not_an_object(content: bytes) -> None:
    assert problems(content) == [("body", "model_type")]


@pytest.mark.parametrize(
    "content",
    [
        body().replace(b'"speed": 25.5', b'"speed": 1, "speed": 25.5'),
        body().replace(b'"speed": 25.5', b'"sp\\u0065ed": 1, "speed": 25.5'),
        body().replace(b'{"obs', b'{"observations": [{}], "obs', 1),
    ],
)
def test_the_last_of_two_equal_names_wins(content: bytes) -> None:
    assert decoded(content)["speed"] == 25.5


def test_a_field_may_be_escaped() -> None:
    assert decoded(body().replace(b"speed", b"sp\\u0065ed"))["speed"] == 25.5


def test_problems_are_listed_up_to_a_hundred() -> None:
    content = json.dumps({"observations": [{}] * 1000}).encode()
    with pytest.raises(ValidationFailed, match="and 99 more") as raised:
        decode_predict(content)
    listed = raised.value.details["validation_errors"]
    assert [one["field"] for one in listed] == [f"observations.{i}.speed" for i in range(100)]


@pytest.mark.parametrize(
    ("content", "form", "expected"),
    [
        (b"[" * 100_000, JSON, ("body", "model_type")),
        (b'{"observations":' * 5_000, JSON, ("observations", "list_type")),
        (b'{"observations":' + b"[" * 5_000, JSON, ("body", "json_invalid")),
        (
            body(speed=987).replace(b"987", b"1" * 5000),
            JSON,
            ("observations.0.speed", "finite_number"),
        ),
        (b"", MSGPACK, ("body", "msgpack_invalid")),
        (b"\xc1", MSGPACK, ("body", "msgpack_invalid")),
        (msgspec.msgpack.encode({"observations": 1}), MSGPACK, ("observations", "list_type")),
        (b"\x81\xacobservations\xdd\xff\xff\xff\xff", MSGPACK, ("observations", "too_long")),
        (b"\x81\xacobservations" + b"\x91" * 5000, MSGPACK, ("body", "msgpack_invalid")),
    ],
)
def test_the_first_wrong_element_ends_it(
    content: bytes, form: str, expected: tuple[str, str]
) -> None:
    with pytest.raises(ValidationFailed) as raised:
        decode_predict(content, form=form)
    (problem,) = raised.value.details["validation_errors"]
    assert (problem["field"], problem["type"]) == expected


def test_msgpack_reads_as_json_does() -> None:
    content = {"observations": [OBSERVATION] * 3, "seed": 7, "version": "v0.1.0"}
    found = [
        msgspec.json.decode(msgspec.json.encode(decode_predict(encoded, 5, form)))
        for encoded, form in (
            (json.dumps(content).encode(), JSON),
            (msgspec.msgpack.encode(content), MSGPACK),
        )
    ]
    others = {"deterministic": False, "policyActions": False, "states": None}
    assert found[0] == found[1] == content | others


def test_the_version_is_read_beside_other_errors() -> None:
    content = _many(1, version="v9.0.0", deterministic=1, nonsense={})
    assert codec.asked_of(content, JSON).version == "v9.0.0"
    with pytest.raises(ValidationFailed):
        codec.check_version("x")
    for bad in (_many(1, version=1), b"[]", b"{"):
        with pytest.raises(ValidationFailed):
            codec.asked_of(bad, JSON)


def test_a_long_field_name_is_cut() -> None:
    (problem,) = problems(_many(1, **{"x" * 10_000: 1}))
    assert problem == ("x" * 200, "extra_forbidden")


def test_number_of_sensors() -> None:
    assert len(decoded(body())["sensors"]) == 5
    with pytest.raises(ValidationFailed) as raised:
        decode_predict(_many(2), 6)
    assert raised.value.details["validation_errors"] == [
        {
            "field": f"observations.{index}.sensors",
            "message": "Expected `array` of length 6",
            "type": "wrong_length",
        }
        for index in range(2)
    ]


def test_warmup_takes_nothing() -> None:
    for empty in (b"", b"{}"):
        codec.check_warmup(empty, JSON)
    with pytest.raises(ValidationFailed, match="version: There is no such field"):
        codec.check_warmup(b'{"version": "v0.1.0"}', JSON)
    with pytest.raises(ValidationFailed, match="Expected `object`, got `array`"):
        codec.check_warmup(b"[]", JSON)


def test_a_wrong_version_is_told_what_is_right() -> None:
    content = json.dumps({"observations": [OBSERVATION], "version": "latest"}).encode()
    with pytest.raises(ValidationFailed, match=r"^version: must be a version like v0\.1\.0$"):
        decode_predict(content)


def test_an_example_is_drawn_once() -> None:
    """That of a large space takes a second, in which the gateway would answer nobody."""
    space = Box("uint8", (64, 64, 3), 0, 255)
    assert codec_of(space).example is codec_of(space).example
    assert codec_of(space).read_observations([codec_of(space).example])


@pytest.mark.parametrize("form", [JSON, MSGPACK])
def test_too_many_observations_are_not_read(form: str) -> None:
    """The first one too many ends it: a million of them would take memory and the loop's time."""
    body = codec.encode[form]({"observations": [0] * 1_000_000})
    tracemalloc.start()
    with pytest.raises(ValidationFailed) as refused:
        codec.read_envelope(body, form)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    (problem,) = refused.value.details["validation_errors"]
    assert (problem["field"], problem["type"]) == ("observations", "too_long")
    assert problem["message"] == "Expected `array` of length <= 1000"
    assert taken < 1_000_000
