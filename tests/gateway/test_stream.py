"""Steps of control streams: the answers of `/predict`, exactly one for each frame, latest first."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import msgspec
import pytest
from websockets.asyncio.client import connect

from tests.gateway.processes import OBSERVATION, gateway_process, predict, until
from tests.gateway.stand_in import StandIn
from tests.gateway.streams import Frames, metric, stream

MAX_STEP = 2**53 - 1
pack = msgspec.msgpack.encode


def seen(**more: Any) -> dict[str, Any]:
    return {"stepId": 1, "observation": {**OBSERVATION, **more}}


def speeds(stand_in: StandIn) -> list[float]:
    """What came to Triton, row by row."""
    return [speed for call in stand_in.calls for speed in call["speed"].ravel().tolist()]


@pytest.fixture(scope="module")
def patient() -> Iterator[tuple[StandIn, str]]:
    """A stand-in that can hold its answers, and a gateway that waits, with one call at a time."""
    one = StandIn()
    one.start()
    limits = {"REQUEST_TIMEOUT_MS": "60000", "CALLS_IN_FLIGHT": "1"}
    with gateway_process(TRITON_URL=one.url, **limits) as url:
        yield one, url
    one.stop()


@pytest.fixture
def held(patient: tuple[StandIn, str]) -> Iterator[tuple[StandIn, str]]:
    one, url = patient
    one.calls.clear()
    one.go.clear()
    one.mode = "held"
    yield one, url
    one.mode = "ok"
    one.go.set()


@pytest.mark.parametrize("packed", [False, True], ids=["json", "msgpack"])
@pytest.mark.parametrize(
    "asked",
    [{"deterministic": True}, {"seed": 7}, {"seed": 2**63 - 1, "version": "v0.1.0"}, {}],
    ids=["deterministic", "seeded", "another version", "drawn"],
)
def test_the_same_bits_as_predict(gateway_url: str, packed: bool, asked: dict[str, Any]) -> None:
    subprotocol = "carlarl.v1.msgpack" if packed else "carlarl.v1"
    generator = random.Random(3)
    with stream(gateway_url, packed=packed, subprotocols=[subprotocol]) as vehicle:
        assert vehicle.connection.subprotocol == subprotocol
        for step in (0, 17, MAX_STEP):
            observation = {**OBSERVATION, "speed": generator.uniform(0, 200)}
            got = vehicle.ask(step, observation=observation, **asked)
            repeated = {**asked, "seed": got["seed"]} if "seed" in got else asked
            same = predict(gateway_url, observations=[observation], **repeated).json()
            assert got["stepId"] == step
            assert got["action"] == same["actions"][0]
            assert got["version"] == same["version"] == asked.get("version", "v0.2.0")
            assert got["deterministic"] is same["deterministic"]
            assert got.get("seed") == same.get("seed")
            assert 0.0 < got["timingMs"] < 60_000


def test_each_frame_is_answered_in_its_own_kind(gateway_url: str) -> None:
    with stream(gateway_url, subprotocols=["other", "carlarl.v1"]) as vehicle:
        connection = vehicle.connection
        assert connection.subprotocol == "carlarl.v1"
        connection.send(pack(seen()))
        assert msgspec.msgpack.decode(connection.recv())["stepId"] == 1
        connection.send([json.dumps(seen())[:9], json.dumps(seen())[9:]])  # in two fragments
        assert json.loads(connection.recv())["stepId"] == 1
    with stream(gateway_url) as vehicle:
        assert vehicle.connection.subprotocol is None
        assert vehicle.ask(3)["stepId"] == 3


@pytest.mark.parametrize("packed", [False, True], ids=["json", "msgpack"])
@pytest.mark.parametrize(
    "content",
    [
        seen(speed=201),
        seen(speed="fast"),
        seen(steering=True),
        seen(sensors=[1001, 0, 0, 0, 0]),
        seen(sensors=[0.0] * 4),
        seen(typo=1),
        {**seen(), "seed": 2**63},
        {**seen(), "seed": 1.0},
        {**seen(), "version": "0.1"},
        {**seen(), "version": "v0.1.0\n"},
        {**seen(), "version": "v9.9.9"},
        {**seen(), "deterministic": 1},
        {**seen(), "typo": 1},
        {"stepId": 1},
    ],
    ids=str,
)
def test_errors_are_those_of_predict(gateway_url: str, content: Any, packed: bool) -> None:
    rest = {name: value for name, value in content.items() if name not in ("stepId", "observation")}
    observations = {"observations": [content["observation"]]} if "observation" in content else {}
    request = {**observations, **rest}
    expected = httpx.post(gateway_url + "/predict", json=request).json()
    with stream(gateway_url, packed=packed) as vehicle:
        vehicle.send_raw(pack(content) if packed else json.dumps(content))
        got = vehicle.receive()
        assert got["stepId"] == 1
        assert got["error"] == expected["error"]
        problems = got["details"].get("validation_errors", [])
        theirs = expected["details"].get("validation_errors", [])
        assert [one["type"] for one in problems] == [one["type"] for one in theirs]
        assert [one["message"] for one in problems] == [one["message"] for one in theirs]
        for mine, other in zip(problems, theirs, strict=True):
            assert mine["field"] == other["field"].replace("observations.0", "observation").replace(
                "observations", "observation"
            )
        assert abs(got["timestamp"] - time.time()) < 60
        assert vehicle.ask(2)["stepId"] == 2  # it goes on


@pytest.mark.parametrize(
    ("frame", "step", "kind"),
    [
        ("{", None, "json_invalid"),
        ("[]", None, "model_type"),
        ("[" * 50_000, None, "model_type"),
        (json.dumps({**seen(), "stepId": -1}), None, "greater_than_equal"),
        (json.dumps({**seen(), "stepId": 2**53}), None, "less_than_equal"),
        (json.dumps({**seen(), "stepId": 1.5}), None, "int_type"),
        (json.dumps({**seen(), "stepId": True}), None, "int_type"),
        (json.dumps({"observation": OBSERVATION}), None, "missing"),
        (json.dumps(seen(speed=float("nan"))), None, "json_invalid"),
        (b"", None, "msgpack_invalid"),
        (b"\xc1", None, "msgpack_invalid"),
        (pack(seen())[:-1], None, "msgpack_invalid"),
        (pack(seen()) + b"\x00", None, "msgpack_invalid"),
        (pack([seen()]), None, "model_type"),
        (b"\x91" * 50_000, None, "model_type"),
        (pack(seen(speed=float("nan"))), 1, "greater_than_equal"),
        (pack({**seen(), "stepId": "1"}), None, "int_type"),
    ],
)  # fmt: skip
def test_frames_that_are_no_step(
    gateway_url: str, frame: str | bytes, step: int | None, kind: str
) -> None:
    packed = isinstance(frame, bytes)
    with stream(gateway_url, packed=packed) as vehicle:
        vehicle.send_raw(frame)
        got = vehicle.receive()
        assert got["error"] == "VALIDATION_ERROR"
        assert got["stepId"] == step
        assert kind in [one["type"] for one in got["details"]["validation_errors"]]
        assert vehicle.ask(2)["stepId"] == 2


def test_the_last_of_two_equal_names_wins(gateway_url: str) -> None:
    with stream(gateway_url) as vehicle:
        vehicle.send_raw(json.dumps(seen())[:-1] + ', "stepId": 2}')
        assert vehicle.receive()["stepId"] == 2
    with stream(gateway_url, packed=True) as vehicle:
        vehicle.send_raw(b"\x83" + pack(seen())[1:] + pack("stepId") + pack(2))
        assert vehicle.receive()["stepId"] == 2


def test_a_number_may_spell_a_name(gateway_url: str) -> None:
    """In msgpack, where the bytes of a number stand as they are."""
    steering = msgspec.msgpack.decode(b"\xcb\x3f\xe0seed\x00\x00")
    with stream(gateway_url, packed=True) as vehicle:
        observation = {**OBSERVATION, "steering": steering}
        got = vehicle.ask(1, observation=observation, seed=3)
        same = predict(gateway_url, observations=[observation], seed=3).json()
        assert got["action"] == same["actions"][0]


@pytest.mark.parametrize(
    "rest",
    ['"seed": null}', '"seed": 7\r\n}', '"seed": 7\t}', '"s\\u0065ed": 7}', '"version": null}'],
)
def test_json_in_other_spellings(gateway_url: str, rest: str) -> None:
    observation = json.dumps(OBSERVATION)
    content = f'{{"observations": [{observation}], {rest}'
    expected = httpx.post(gateway_url + "/predict", content=content)
    assert expected.status_code == 200
    with stream(gateway_url) as vehicle:
        vehicle.send_raw(f'{{"stepId": 1, "observation": {observation}, {rest}')
        got = vehicle.receive()
        assert "action" in got
        if "7" in rest:
            assert got["action"] == expected.json()["actions"][0]


@pytest.mark.parametrize("packed", [False, True], ids=["json", "msgpack"])
def test_damaged_frames_get_one_answer_each(gateway_url: str, packed: bool) -> None:
    generator = random.Random(8)
    good = pack({**seen(), "seed": 3}) if packed else json.dumps({**seen(), "seed": 3}).encode()
    with stream(gateway_url, packed=packed) as vehicle:
        for step in range(200):
            damaged = bytearray(good)
            for _ in range(generator.randint(1, 3)):
                damaged[generator.randrange(len(damaged))] = generator.randrange(
                    256 if packed else 128
                )
            vehicle.send_raw(bytes(damaged) if packed else damaged.decode())
            vehicle.receive()
            assert vehicle.ask(step)["stepId"] == step


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        ("nan", "INFERENCE_ERROR"),
        ("garbage", "INFERENCE_ERROR"),
        ("hang", "DEADLINE_EXCEEDED"),
        ("status 400 Exceeds maximum queue size", "RESOURCE_EXHAUSTED"),
        ("status 503 x", "SERVICE_UNAVAILABLE"),
    ],
)
def test_errors_of_triton(stand_in: StandIn, stand_in_gateway: str, mode: str, code: str) -> None:
    with stream(stand_in_gateway) as vehicle:
        stand_in.mode = mode
        got = vehicle.ask(1)
        stand_in.mode = "ok"
        assert (got["stepId"], got["error"]) == (1, code)
        retry = code in ("RESOURCE_EXHAUSTED", "SERVICE_UNAVAILABLE")
        assert ("retry_after_s" in got["details"]) is retry
        until(lambda: "action" in vehicle.ask(2))


def test_a_deadline_of_ones_own(held: tuple[StandIn, str]) -> None:
    _, url = held
    with stream(url, additional_headers={"X-Deadline-Ms": "300"}) as vehicle:
        began = time.monotonic()
        assert vehicle.ask(1)["error"] == "DEADLINE_EXCEEDED"
        assert 0.2 < time.monotonic() - began < 20


def test_the_latest_wins(held: tuple[StandIn, str]) -> None:
    one, url = held
    before = metric(url, "carla_rl_skipped_total")
    with stream(url) as vehicle, stream(url) as other:
        vehicle.send(0)
        until(lambda: len(one.calls) == 1)
        for step in range(1, 6):
            vehicle.send(step, observation={**OBSERVATION, "speed": 40.0 + step})
        assert [vehicle.receive() for _ in range(4)] == [
            {"stepId": step, "skipped": True} for step in range(1, 5)
        ]
        one.go.set()
        assert [vehicle.receive()["stepId"] for _ in range(2)] == [0, 5]
        assert speeds(one) == [OBSERVATION["speed"], 45.0]
        assert "action" in other.ask(1)  # one vehicle's steps do not overtake another's
    assert metric(url, "carla_rl_skipped_total") - before == 4


def test_who_is_overtaken_in_the_line_is_not_sent(held: tuple[StandIn, str]) -> None:
    one, url = held
    with stream(url) as vehicle, ThreadPoolExecutor(1) as pool:
        first = pool.submit(predict, url)
        until(lambda: len(one.calls) == 1)
        vehicle.send(1)
        assert vehicle.connection.ping().wait(60)  # by then it waits for a call
        vehicle.send(2)
        vehicle.send(3, observation={**OBSERVATION, "speed": 43.0})
        assert vehicle.receive() == {"stepId": 2, "skipped": True}
        one.go.set()
        assert vehicle.receive() == {"stepId": 1, "skipped": True}
        assert vehicle.receive()["stepId"] == 3
        assert first.result().status_code == 200
    assert speeds(one) == [OBSERVATION["speed"], 43.0]


def test_who_was_never_in_the_line_leaves_no_place_in_it(held: tuple[StandIn, str]) -> None:
    one, url = held
    deadline = {"X-Deadline-Ms": "1000"}

    def refused() -> bool:
        content = {"observations": [OBSERVATION]}
        return httpx.post(url + "/predict", json=content, headers=deadline).status_code == 429

    with stream(url, additional_headers=deadline) as vehicle, ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(predict, url)]
        until(lambda: len(one.calls) == 1)
        asked.append(pool.submit(predict, url))
        until(refused)
        vehicle.send_together(1, 2)
        got = [vehicle.receive(), vehicle.receive()]
        assert [(one["stepId"], one["error"]) for one in got] == [
            (1, "RESOURCE_EXHAUSTED"),
            (2, "RESOURCE_EXHAUSTED"),
        ]
        one.go.set()
        assert [each.result().status_code for each in asked] == [200, 200]


def test_a_vehicle_that_has_gone_is_not_sent(held: tuple[StandIn, str]) -> None:
    one, url = held
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(predict, url)
        until(lambda: len(one.calls) == 1)
        with stream(url) as vehicle:
            vehicle.send(1)
            assert vehicle.connection.ping().wait(60)
        until(lambda: metric(url, "carla_rl_streams") == 0)
        one.go.set()
        assert first.result().status_code == 200
    assert predict(url).status_code == 200
    assert len(one.calls) == 2


def test_metrics(gateway_url: str) -> None:
    def steps(status: int) -> float:
        labels = f'method="WS",route="/stream",status="{status}"'
        return metric(gateway_url, f"carla_rl_requests_total{{{labels}}}")

    before = steps(200), steps(422)
    upgrades = metric(gateway_url, 'carla_rl_requests_total{method="GET",route="/stream"')
    until(lambda: metric(gateway_url, "carla_rl_streams") == 0)
    with stream(gateway_url) as vehicle, stream(gateway_url):
        vehicle.ask(1)
        vehicle.ask(2, typo=1)
        assert metric(gateway_url, "carla_rl_streams") == 2
    assert (steps(200), steps(422)) == (before[0] + 1, before[1] + 1)
    until(lambda: metric(gateway_url, "carla_rl_streams") == 0)
    now = metric(gateway_url, 'carla_rl_requests_total{method="GET",route="/stream"')
    assert now == upgrades + 2


def test_the_cache_is_the_same(run_gateway: Callable[..., str], triton_http: str) -> None:
    url = run_gateway(TRITON_URL=f"http://{triton_http}", CACHE_BYTES="100000")
    first = predict(url, deterministic=True).json()["actions"][0]
    with stream(url) as vehicle:
        assert vehicle.ask(1, deterministic=True)["action"] == first
    assert metric(url, 'carla_rl_cache_lookups_total{result="hit"}') == 1


def test_a_promotion_while_steps_run(held: tuple[StandIn, str]) -> None:
    """Not a step is lost, and the version in an answer is the one that computed it."""
    one, url = held
    one.mode = "ok"
    seen: list[str] = []
    with stream(url) as vehicle:
        step = 0
        while "v0.1.0" not in seen:
            got = vehicle.ask(step)
            assert got["stepId"] == step
            seen.append(got["version"])
            if step == 20:
                one.active = "v0.1.0"
            step += 1
            assert step < 200_000
    one.active = "v0.2.0"
    assert seen == sorted(seen, reverse=True)
    assert set(seen) == {"v0.1.0", "v0.2.0"}


def test_two_workers(run_gateway: Callable[..., str], triton_http: str) -> None:
    url = run_gateway(TRITON_URL=f"http://{triton_http}", WORKERS="2")
    with ExitStack() as stack:
        vehicles = [stack.enter_context(stream(url)) for _ in range(12)]
        for step in range(3):
            for vehicle in vehicles:
                assert "action" in vehicle.ask(step)
        until(lambda: metric(url, "carla_rl_streams") == 12)  # workers tell once a second
        steps = 'carla_rl_requests_total{method="WS",route="/stream",status="200"}'
        until(lambda: metric(url, steps) == 36)


def test_a_hundred_vehicles(gateway_url: str) -> None:
    """At 20 Hz, each with observations of its own: every step is answered, by its own action."""
    frames = Frames(httpx.get(gateway_url + "/asyncapi.json").json())
    speeds = [1.5 * vehicle for vehicle in range(100)]
    asked = [{**OBSERVATION, "speed": speed} for speed in speeds]
    expected = predict(gateway_url, observations=asked, deterministic=True).json()["actions"]

    async def drive(vehicle: int) -> int:
        address = gateway_url.replace("http", "ws", 1) + "/stream"
        async with connect(address, proxy=None) as connection:
            for step in range(20):
                content = {"stepId": step, "observation": asked[vehicle], "deterministic": True}
                await connection.send(json.dumps(content))
                await asyncio.sleep(0.05)
            got = [json.loads(await connection.recv()) for _ in range(20)]
        assert sorted(one["stepId"] for one in got) == list(range(20))
        actions = [one["action"] for one in got if "action" in one]
        assert [one for one in got if "action" not in one] == [
            one for one in got if frames.kinds(one) == {"skipped"}
        ]
        assert all(action == expected[vehicle] for action in actions)
        return len(actions)

    async def drive_all() -> list[int]:
        return await asyncio.gather(*(drive(vehicle) for vehicle in range(100)))

    answered = asyncio.run(drive_all())
    assert min(answered) >= 1
