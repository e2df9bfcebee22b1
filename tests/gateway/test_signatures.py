"""Policies of other signatures, over HTTP and streams, in JSON and msgpack."""

from __future__ import annotations

import asyncio
import base64
import gc
import time
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from websockets.sync.client import ClientConnection, connect

from gateway.api.codec import LARGE_BYTES, Codec, codec_of, read_envelope
from gateway.api.problems import JSON, MSGPACK
from policy_spec.parsing import parse_space
from tests.gateway.processes import gateway_process
from tests.gateway.stand_in import StandIn

CARD: dict[str, Any] = {
    "observation_space": {
        "type": "Dict",
        "subspaces": {
            "speed": {"type": "Box", "dtype": "float32", "shape": [], "low": 0, "high": 200},
            "grid": {
                "type": "Box", "dtype": "float32", "shape": [2, 2], "low": "-inf", "high": "inf"
            },
            "edges": {
                "type": "Box", "dtype": "float64", "shape": [2], "low": [0, -1], "high": [1, 5]
            },
            "scan": {"type": "Box", "dtype": "float32", "shape": [70], "low": 0, "high": 1},
            "pixels": {"type": "Box", "dtype": "uint8", "shape": [9, 8], "low": 0, "high": 255},
            "count": {"type": "Box", "dtype": "int16", "shape": [], "low": -5, "high": 5},
            "light": {"type": "Discrete", "n": 3, "start": 1},
            "gears": {"type": "MultiDiscrete", "nvec": [2, 3]},
            "pair": {
                "type": "Tuple",
                "subspaces": [{"type": "MultiBinary", "n": 2}, {"type": "Discrete", "n": 2}],
            },
        },
    },
    "action_space": {"type": "Discrete", "n": 3},
    "control": {
        "table": [{"throttle": 1}, {"brake": 1, "hand_brake": True}, {"steer": -0.5}],
    },
    "distribution": {"noise": "none"},
    "repeat": 4,
}  # fmt: skip
SCAN = np.linspace(0, 1, 70, dtype=np.float32)
GOOD: dict[str, Any] = {
    "speed": 30,
    "grid": [[0, 0.5], [-1e30, 1.0]],
    "edges": [1, 5.0],
    "scan": SCAN.tolist(),
    "pixels": [[7] * 8] * 9,
    "count": -5,
    "light": 3,
    "gears": [1, 2],
    "pair": [[0, 1], 1],
}
OUTPUTS = {
    "action": np.array([0, 1, 0, 1], np.float32),
    "policy_action": np.array([1], np.int64),
}
CONTROL = {"throttle": 0.0, "brake": 1.0, "steer": 0.0, "hand_brake": True}
ENCODE = {JSON: msgspec.json.encode, MSGPACK: msgspec.msgpack.encode}
DECODE = {JSON: msgspec.json.decode, MSGPACK: msgspec.msgpack.decode}


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[StandIn, str]]:
    stand_in = StandIn(CARD, GOOD, OUTPUTS)
    stand_in.start()
    with gateway_process(TRITON_URL=stand_in.url) as url:
        yield stand_in, url
    stand_in.stop()


@pytest.fixture(scope="module")
def url(served: tuple[StandIn, str]) -> str:
    return served[1]


@pytest.fixture(scope="module")
def stream(url: str) -> Iterator[ClientConnection]:
    with connect(f"ws{url.removeprefix('http')}/stream", compression=None) as connection:
        yield connection


def ask(url: str, form: str, body: Any) -> tuple[int, Any]:
    content = ENCODE[form](body)
    answer = httpx.post(f"{url}/predict", content=content, headers={"Content-Type": form})
    return answer.status_code, DECODE[answer.headers["content-type"]](answer.content)


def step(stream: ClientConnection, form: str, frame: Any) -> Any:
    content = ENCODE[form](frame)
    stream.send(content.decode() if form == JSON else content)
    answer = stream.recv(timeout=10)
    return DECODE[form](answer.encode() if isinstance(answer, str) else answer)


NAN, INFINITY = float("nan"), float("inf")
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"other": 1}, "other"),
    ({"speed": "30"}, "speed"),
    ({"speed": True}, "speed"),
    ({"speed": None}, "speed"),
    ({"speed": [30]}, "speed"),
    ({"speed": {}}, "speed"),
    ({"speed": 200.1}, "speed"),
    ({"speed": -0.1}, "speed"),
    ({"grid": []}, "grid"),
    ({"grid": [[0, 0]] * 3}, "grid"),
    ({"grid": [[0, 0], [0]]}, "grid.1"),
    ({"grid": [[0, 0], [0, [0]]]}, "grid.1.1"),
    ({"grid": [[[[[0]]], 0], [0, 0]]}, "grid.0.0"),
    ({"grid": [[0, 0], [0, 1e39]]}, "grid.1.1"),
    ({"grid": "AAAA"}, "grid"),
    ({"edges": [1.5, 0]}, "edges.0"),
    ({"edges": [0, -1.5]}, "edges.1"),
    ({"edges": [0]}, "edges"),
    ({"scan": [0] * 69}, "scan"),
    ({"scan": [0] * 69 + [2]}, "scan.69"),
    ({"pixels": [[7] * 8] * 8 + [[256] * 8]}, "pixels.8.0"),
    ({"pixels": [[7] * 8] * 8 + [[1.0] * 8]}, "pixels.8.0"),
    ({"pixels": {"gif": "AAAA"}}, "pixels.gif"),
    ({"count": 6}, "count"),
    ({"count": 1.0}, "count"),
    ({"light": 0}, "light"),
    ({"light": 4}, "light"),
    ({"light": 2.0}, "light"),
    ({"light": "red"}, "light"),
    ({"gears": [1]}, "gears"),
    ({"gears": [1, 3]}, "gears.1"),
    ({"gears": [1, True]}, "gears.1"),
    ({"gears": []}, "gears"),
    ({"pair": [[0, 2], 1]}, "pair.0.1"),
    ({"pair": [[0, 1]]}, "pair"),
    ({"pair": [[0, 1], 1, 1]}, "pair"),
    ({"pair": [[0, 1], 2]}, "pair.1"),
    ({"pair": {}}, "pair"),
]
ONLY_JSON: list[tuple[dict[str, Any], str]] = [
    ({"pixels": {"png": "AAAA"}}, "pixels"),
    ({"scan": base64.b64encode(SCAN.tobytes()[4:]).decode()}, "scan"),
    ({"scan": base64.b64encode(bytes(284)).decode()}, "scan"),
    ({"scan": base64.b64encode(SCAN.tobytes()).decode()[:-4] + "A A="}, "scan"),
    ({"scan": base64.b64encode((SCAN + 1).tobytes()).decode()}, "scan.1"),
    ({"scan": base64.b64encode((SCAN * NAN).tobytes()).decode()}, "scan.0"),
    ({"pixels": base64.b64encode(bytes(71)).decode()}, "pixels"),
    ({"scan": ""}, "scan"),
]
ONLY_MSGPACK: list[tuple[dict[str, Any], str]] = [
    ({"pixels": {"png": "AAAA"}}, "pixels.png"),
    ({"speed": NAN}, "speed"),
    ({"speed": INFINITY}, "speed"),
    ({"grid": [[0, NAN], [0, 0]]}, "grid.0.1"),
    ({"grid": [[0, -INFINITY], [0, 0]]}, "grid.0.1"),
    ({"edges": [0, NAN]}, "edges.1"),
    ({"scan": SCAN.tobytes()[4:]}, "scan"),
    ({"scan": (SCAN / 0.5).tobytes()}, "scan.35"),
    ({"scan": np.full(70, INFINITY, np.float32).tobytes()}, "scan.0"),
    ({"pixels": bytes(73)}, "pixels"),
    ({"light": b"\1"}, "light"),
]


@pytest.mark.parametrize("form", [JSON, MSGPACK])
def test_bad_input_has_its_path(url: str, stream: ClientConnection, form: str) -> None:
    cases = WRONG + (ONLY_JSON if form == JSON else ONLY_MSGPACK)
    cases += [({name: "missing"}, name) for name in GOOD]
    for change, field in cases:
        bad = GOOD | change
        if change == {field: "missing"}:
            del bad[field]
        status, answer = ask(url, form, {"observations": [GOOD, bad], "deterministic": True})
        assert (status, answer["error"]) == (422, "VALIDATION_ERROR"), change
        found = answer["details"]["validation_errors"]
        assert found[0]["field"] == f"observations.1.{field}", (change, found)
        answer = step(stream, form, {"stepId": 1, "observation": bad, "deterministic": True})
        assert answer["error"] == "VALIDATION_ERROR", change
        assert answer["details"]["validation_errors"][0]["field"] == f"observation.{field}"


@pytest.mark.parametrize("form", [JSON, MSGPACK])
def test_a_good_one_arrives_as_it_is(
    served: tuple[StandIn, str], stream: ClientConnection, form: str
) -> None:
    stand_in, url = served
    pixels = np.arange(72, dtype=np.uint8)
    packed: dict[str, Any] = {"scan": SCAN.tobytes(), "pixels": pixels.tobytes()}
    if form == JSON:
        packed = {name: base64.b64encode(one).decode() for name, one in packed.items()}
    observations = [GOOD, GOOD | packed]
    asked = {"observations": observations, "deterministic": True, "policyActions": True}
    del stand_in.calls[:]
    status, answer = ask(url, form, asked)
    assert status == 200, answer
    assert answer["actions"] == [CONTROL] * 2
    assert answer["policyActions"] == [1, 1]
    sent = next(call for call in stand_in.calls if len(call["row"]) == 2)
    assert sent["grid"].tolist() == [[[0, 0.5], [np.float32(-1e30), 1]]] * 2
    assert sent["edges"].tolist() == [[1, 5]] * 2
    assert sent["edges"].dtype == np.float64
    assert (sent["scan"] == SCAN).all()
    assert sent["pixels"].tolist() == [GOOD["pixels"], pixels.reshape(9, 8).tolist()]
    assert sent["count"].tolist() == [[-5]] * 2
    assert sent["light"].tolist() == [[3]] * 2
    assert sent["gears"].tolist() == [[1, 2]] * 2
    assert sent["pair.0"].dtype == np.int8
    assert sent["pair.1"].tolist() == [[1]] * 2
    for observation in observations:
        frame = {"stepId": 3, "observation": observation, "deterministic": True}
        answer = step(stream, form, frame | {"policyActions": True})
        assert (answer["action"], answer["policyAction"]) == (CONTROL, 1)
        assert "policyAction" not in step(stream, form, frame)


def test_it_can_not_be_sampled(url: str, stream: ClientConnection) -> None:
    status, answer = ask(url, JSON, {"observations": [GOOD]})
    assert (status, answer["error"]) == (422, "UNSUPPORTED")
    assert "ask with deterministic true" in answer["message"]
    answer = step(stream, JSON, {"stepId": 1, "observation": GOOD, "seed": 1})
    assert answer["error"] == "UNSUPPORTED"


def test_an_unknown_version_comes_before_all_else(url: str, stream: ClientConnection) -> None:
    bad = GOOD | {"speed": "fast"}
    status, answer = ask(url, JSON, {"observations": [bad], "version": "v7.0.0"})
    assert (status, answer["error"]) == (404, "MODEL_NOT_FOUND")
    answer = step(stream, JSON, {"stepId": 1, "observation": bad, "version": "v7.0.0"})
    assert answer["error"] == "MODEL_NOT_FOUND"


def test_documents(url: str) -> None:
    metadata = httpx.get(f"{url}/metadata").json()
    assert (metadata["sensors"], metadata["inputShape"]) == (None, None)
    assert list(metadata["observationSpace"]["subspaces"]) == list(GOOD)
    assert metadata["policyActionSpace"]["n"] == 3
    assert metadata["control"] == {
        "table": [{"throttle": 1.0}, {"brake": 1.0, "hand_brake": True}, {"steer": -0.5}]
    }
    assert (metadata["repeat"], metadata["stateful"]) == (4, False)
    space = metadata["actionSpace"]
    assert space["names"] == ["throttle", "brake", "steer", "hand_brake"]
    assert (space["low"], space["high"]) == ([0, 0, -1, 0], [1, 1, 1, 1])
    assert (space["steer"], space["hand_brake"]) == ([-1, 1], [0, 1])
    example = metadata["exampleObservation"]
    assert ask(url, JSON, {"observations": [example], "deterministic": True})[0] == 200
    for path in ("/openapi.json", "/asyncapi.json"):
        schemas = httpx.get(url + path).json()["components"]["schemas"]
        assert list(schemas["Observation"]["properties"]) == list(GOOD)
        assert schemas["Action"]["properties"]["hand_brake"] == {"type": "boolean"}
        assert schemas["PolicyAction"]["maximum"] == 2


def test_metrics_have_the_controls_names(url: str) -> None:
    text = httpx.get(f"{url}/metrics").text
    assert 'carla_rl_action_ratio_count{control="hand_brake"}' in text


OWN: list[tuple[dict[str, Any], np.ndarray, Any]] = [
    ({"type": "Discrete", "n": 9, "start": 2}, np.array([10], np.int64), 10),
    ({"type": "MultiDiscrete", "nvec": [3, 2]}, np.array([2, 1], np.int64), [2, 1]),
    ({"type": "MultiBinary", "n": [1, 2]}, np.array([0, 1], np.int8), [[0, 1]]),
    (
        {"type": "Box", "dtype": "float32", "shape": [1, 2], "low": "-inf", "high": "inf"},
        np.array([-7.5, 0.25], np.float32),
        [[-7.5, 0.25]],
    ),
    (
        {"type": "Box", "dtype": "float32", "shape": [], "low": -1, "high": 1},
        np.array([-0.5], np.float32),
        -0.5,
    ),
]


@pytest.mark.parametrize(("space", "action", "expected"), OWN)
def test_no_control(space: dict[str, Any], action: np.ndarray, expected: Any) -> None:
    """A bare Box as the observation: a list, and the action in the policy's own space."""
    observation = {"type": "Box", "dtype": "float32", "shape": [3], "low": -1, "high": 1}
    card = {"observation_space": observation, "action_space": space}
    stand_in = StandIn(card, [0, 0.5, 1], {"action": action})
    stand_in.start()
    with gateway_process(TRITON_URL=stand_in.url) as url:
        asked = {"observations": [[0, 0.5, 1]] * 2, "deterministic": True, "policyActions": True}
        status, answer = ask(url, JSON, asked)
        assert (status, answer.get("actions")) == (200, [expected] * 2), answer
        assert answer["policyActions"] == answer["actions"]
        assert ask(url, JSON, {"observations": [[0, 2, 0]]})[1]["message"].startswith(
            "observations.0.1: "
        )
        metadata = httpx.get(f"{url}/metadata").json()
        assert (metadata["control"], metadata["actionSpace"]) == (None, None)
        assert 'control="action.0"' in httpx.get(f"{url}/metrics").text
    stand_in.stop()


def test_a_full_batch_of_images_is_not_too_large() -> None:
    """Unless MAX_BODY_BYTES says so; a small space keeps the limit of 1 MiB."""
    pixels = {"type": "Box", "dtype": "uint8", "shape": [84, 84], "low": 0, "high": 255}
    card = {"observation_space": pixels, "action_space": {"type": "Discrete", "n": 2}}
    image = base64.b64encode(bytes(84 * 84)).decode()
    body = {"observations": [image] * 256, "deterministic": True}
    stand_in = StandIn(card, image, {"action": np.array([1], np.int64)})
    stand_in.start()
    with gateway_process(TRITON_URL=stand_in.url, REQUEST_TIMEOUT_MS="20000") as url:
        status, answer = ask(url, JSON, body)
        assert (status, answer.get("actions")) == (200, [1] * 256), answer
        answer = httpx.post(f"{url}/predict", content=b" " * 5_000_000)
        assert answer.status_code == 413
    with gateway_process(TRITON_URL=stand_in.url, MAX_BODY_BYTES="1000000") as url:
        assert ask(url, JSON, body)[0] == 413
    stand_in.stop()


def test_a_body_may_be_as_large_as_any_served_version_takes() -> None:
    """Also of a version that nobody asked for yet; of one that is loaded later after a refusal."""
    pixels = {"type": "Box", "dtype": "uint8", "shape": [84, 84], "low": 0, "high": 255}
    image = base64.b64encode(bytes(84 * 84)).decode()
    action = {"action_space": {"type": "Discrete", "n": 2}}
    large = {"observation_space": pixels, **action}
    small = {"observation_space": {**pixels, "shape": [2]}, **action}
    stand_in = StandIn(small, [0, 1], {"action": np.array([1], np.int64)})
    plain = stand_in._config

    def config(model: str, version: str) -> dict[str, Any]:
        if version == stand_in.active:
            return plain(model, version)
        return StandIn(large, image, stand_in.outputs)._config(model, version)

    stand_in._config = config  # type: ignore[method-assign]
    stand_in.start()
    rows = {"observations": [image] * 256, "deterministic": True}
    with gateway_process(TRITON_URL=stand_in.url, REQUEST_TIMEOUT_MS="20000") as url:
        time.sleep(1)  # ready; then it reads of the others
        answer = ask(url, JSON, rows | {"version": "v0.1.0"})
        assert answer[0] == 200, answer
    stand_in.served.remove("v0.1.0")
    with gateway_process(TRITON_URL=stand_in.url, REQUEST_TIMEOUT_MS="20000") as url:
        assert ask(url, JSON, rows | {"version": "v0.1.0"})[0] == 413
        stand_in.served.add("v0.1.0")
        deadline = time.monotonic() + 10
        while (answer := ask(url, JSON, rows | {"version": "v0.1.0"}))[0] == 413:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert answer[0] == 200, answer
    stand_in.stop()


def test_a_large_body_is_read_as_a_small_one_is(url: str) -> None:
    """In pieces: with the same answers and errors, and an unknown version comes first."""
    rows = [GOOD] * 600
    asked = {"observations": rows, "deterministic": True}
    assert len(msgspec.json.encode(asked)) > LARGE_BYTES
    for form in (JSON, MSGPACK):
        status, answer = ask(url, form, asked | {"policyActions": True})
        assert (status, answer.get("actions")) == (200, [CONTROL] * 600), answer
        for change, field in (({"light": 4}, "light"), ({"edges": [0, 9]}, "edges.1")):
            bad = asked | {"observations": [*rows[:500], GOOD | change]}
            status, answer = ask(url, form, bad)
            assert (status, answer["error"]) == (422, "VALIDATION_ERROR")
            assert answer["details"]["validation_errors"][0]["field"] == f"observations.500.{field}"
            status, answer = ask(url, form, bad | {"version": "v7.0.0"})
            assert (status, answer["error"]) == (404, "MODEL_NOT_FOUND")
        status, answer = ask(url, form, asked | {"other": 1})
        assert (status, answer["message"]) == (422, "other: There is no such field")
        status, answer = ask(url, form, asked | {"other": 1, "version": "v7.0.0"})
        assert (status, answer["error"]) == (404, "MODEL_NOT_FOUND")


def test_others_have_their_turn_while_a_large_body_is_read() -> None:
    pixels = {"type": "Box", "dtype": "uint8", "shape": [96, 96, 3], "low": 0, "high": 200}
    lists = np.zeros((96, 96, 3), np.uint8).tolist()
    image = base64.b64encode(bytes(96 * 96 * 3)).decode()
    depth = base64.b64encode(bytes(96 * 96 * 3 * 4)).decode()

    async def turns(codec: Codec, rows: list[Any]) -> list[float]:
        """How long the decoder worked between two turns of others."""
        envelope = read_envelope(msgspec.json.encode({"observations": rows}), JSON)
        reading = asyncio.ensure_future(codec.read_large(envelope, JSON))
        took = []
        while not reading.done():
            start = time.thread_time()
            await asyncio.sleep(0)
            took.append(time.thread_time() - start)
        request, packed = reading.result()
        assert packed == codec.pack(request.observations)
        assert len(request.observations) == len(rows)
        return took

    gc.disable()
    for dtype, rows in (
        ("uint8", [lists] * 9),
        ("uint8", [image] * 600),
        ("float32", [depth] * 30),
    ):
        codec = codec_of(parse_space(pixels | {"dtype": dtype}, "space"))
        took = asyncio.run(turns(codec, rows))
        assert len(took) >= 9
        assert max(took) < sum(took) / 3
    gc.enable()


@pytest.mark.parametrize("mode", ["type", "shape"])
def test_an_action_of_another_type_is_never_ready(mode: str) -> None:
    stand_in = StandIn()
    stand_in.mode = mode
    stand_in.start()
    with gateway_process("/livez", TRITON_URL=stand_in.url) as url:
        for _ in range(5):
            assert httpx.get(f"{url}/readyz").status_code == 503
        assert "cannot be read" in httpx.get(f"{url}/readyz").text
    stand_in.stop()
