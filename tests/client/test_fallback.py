"""A car on the track whose service is killed in mid-drive, and comes back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import pytest

from carlarl_client import (
    Action,
    AsyncPolicyClient,
    AsyncSafeDriver,
    ClientClosed,
    Fallback,
    ModelNotFound,
    PolicyClient,
    SafeDriver,
    ValidationFailed,
)
from carlarl_client.fallback import Step
from examples.track import TrackEnv
from tests.client.scripted import Answer, error, nobody, scripted, silent
from tests.stack import running_stack

SEEN = {"speed": 25.5, "steering": 0.1, "sensors": [0.8, 0.2, 0.5, 0.9, 0.1]}


class Car:
    """The example track's car, driven by whatever answers; 20 steps are a second."""

    def __init__(self, driver: SafeDriver) -> None:
        self.driver = driver
        self.env = TrackEnv(put_back=True, max_steps=None)
        self.seen, self.info = self.env.reset(options={"start": 20.0})

    def drive(self, most: int, until: Callable[[], bool] | None = None, pause: float = 0.0) -> None:
        for _ in range(most):
            speed, steering, *sensors = self.seen.tolist()
            step = self.driver.step({"speed": speed, "steering": steering, "sensors": sensors})
            self.seen, *_, self.info = self.env.step(np.array(step.action, np.float32))
            if until is not None and until():
                return
            time.sleep(pause)
        assert until is None, "it did not come to that"


def lasting_ports(count: int) -> list[int]:
    """Free ports that no connection is given as its own, so that they stay free for a restart.

    One that asks for such a port of its own machine again and again may end up connected to itself.
    """
    start = 10_000 + os.getpid() % 200 * 100
    ports: list[int] = []
    while len(ports) < count:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", start))
            ports.append(start)
        start += 1
    return ports


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.reliability
def test_the_service_is_killed_in_mid_drive() -> None:
    names = ("PORT", "TRITON_HTTP_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT")
    ports = dict(zip(names, map(str, lasting_ports(4)), strict=True))
    with (
        ExitStack() as stacks,
        PolicyClient(f"http://127.0.0.1:{ports['PORT']}", retries=0) as client,
    ):
        driver = SafeDriver(client, deadline=20.0, fallback=Fallback(hold_steps=4, brake=0.5))
        car = Car(driver)
        first = stacks.enter_context(running_stack(**ports))
        car.drive(60)
        speed = car.info["speed"]
        assert driver.fallback_steps == 0
        assert speed > 30.0

        killed_at = car.info["progress"]
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        while listens(int(ports["PORT"])):  # until the gateway has noticed
            time.sleep(0.01)
        car.drive(400, until=lambda: car.info["speed"] == 0.0)
        stopped_after, stopped_at = driver.missed, car.info["progress"]
        assert driver.fallback_steps == stopped_after > 4
        assert driver.outages == 1
        assert car.info["off_track"] == 0

        while any(map(listens, map(int, ports.values()))):  # Triton takes its time to end
            time.sleep(0.01)
        with ThreadPoolExecutor(1) as pool:
            started = time.perf_counter()
            again = pool.submit(stacks.enter_context, running_stack(**ports))

            def answered() -> bool:
                if again.done():
                    again.result()  # raises where it did not start
                return driver.missed == 0

            car.drive(2000, until=answered, pause=0.05)
            recovered_s = time.perf_counter() - started
            again.result()
        (lasted,) = driver.recovery_steps
        assert lasted == driver.fallback_steps > stopped_after
        car.drive(400, until=lambda: car.info["speed"] > 20.0)
        assert car.info["off_track"] == 0
    told = {
        "speedWhenKilledKmh": round(speed, 1),
        "stepsUntilStopped": stopped_after,
        "metresUntilStopped": round(stopped_at - killed_at, 1),
        "stepsOnFallback": lasted,
        "secondsFromRestartToAnAnswer": round(recovered_s, 2),
        "offTrack": car.info["off_track"],
    }
    print(json.dumps(told))


def test_the_rule() -> None:
    rule = Fallback(hold_steps=2, brake=0.4)
    last = Action(0.8, 0.0, -0.3)
    assert [rule.action(last, missed) for missed in (1, 2, 3, 9)] == [
        last,
        last,
        Action(0.0, 0.4, -0.3),
        Action(0.0, 0.4, -0.3),
    ]
    assert rule.action(None, 1) == Action(0.0, 0.4, 0.0)
    coast = Fallback(hold_steps=0, brake=0.0)
    assert coast.action(last, 1) == Action(0.0, 0.0, -0.3)
    for bad in ((-1, 0.5), (1, 1.5)):
        with pytest.raises(ValueError, match="hold_steps"):
            Fallback(*bad)


@pytest.mark.parametrize(
    "failure",
    [
        error(503, "SERVICE_UNAVAILABLE", Retry_After="1"),
        error(429, "RESOURCE_EXHAUSTED", Retry_After="1"),
        error(502, "INFERENCE_ERROR"),
        error(500, "INTERNAL_ERROR"),
        Answer(502, b"Bad Gateway"),
        Answer(200, b"<html>"),
    ],
    ids=lambda answer: str(answer.status),
)
def test_an_outage_is_counted_and_ends_by_itself(failure: Answer) -> None:
    with scripted() as server, PolicyClient(server.url, retries=0) as client:
        driver = SafeDriver(client, deadline=20.0)
        server.answers = [Answer(), failure, failure, Answer()]
        steps = [driver.step(SEEN) for _ in range(4)]
        assert [step.error is None for step in steps] == [True, False, False, True]
        assert [step.version for step in steps] == ["v0.2.0", None, None, "v0.2.0"]
        assert steps[1].action == steps[0].action  # held
        assert (driver.steps, driver.fallback_steps, driver.outages) == (4, 2, 1)
        assert driver.recovery_steps == [2]


def test_the_twin_has_the_same_rule_and_counts() -> None:
    async def drive(url: str) -> tuple[list[Step], AsyncSafeDriver]:
        async with AsyncPolicyClient(url, retries=0) as client:
            driver = AsyncSafeDriver(client, deadline=20.0)
            return [await driver.step(SEEN) for _ in range(3)], driver

    with scripted() as server:
        server.answers = [Answer(), error(503, "SERVICE_UNAVAILABLE"), Answer()]
        steps, driver = asyncio.run(drive(server.url))
        assert [step.error is None for step in steps] == [True, False, True]
        assert steps[1].action == steps[0].action
        assert (driver.steps, driver.fallback_steps, driver.recovery_steps) == (3, 1, [1])
        server.answers = [error(404, "MODEL_NOT_FOUND")]
        with pytest.raises(ModelNotFound):
            asyncio.run(drive(server.url))


def test_a_service_that_says_nothing_costs_a_step_s_deadline() -> None:
    with silent() as url, PolicyClient(url) as client:
        step = SafeDriver(client, deadline=0.05, fallback=Fallback(brake=0.7)).step(SEEN)
    assert step.error is not None
    assert step.error.code == "DEADLINE_EXCEEDED"
    assert step.latency_ms >= 50.0
    assert step.action == Action(0.0, 0.7, 0.0)


def test_nobody_there_is_an_outage() -> None:
    with PolicyClient(nobody()) as client:
        step = SafeDriver(client, deadline=20.0).step(SEEN)
    assert step.error is not None
    assert step.error.code == "CONNECTION_FAILED"


def test_what_the_caller_did_wrong_is_raised_before_the_first_answer() -> None:
    with scripted() as server, PolicyClient(server.url, timeout=20.0) as client:
        driver = SafeDriver(client, deadline=20.0)
        server.answers = [error(422, "VALIDATION_ERROR")]
        with pytest.raises(ValidationFailed):
            driver.step(SEEN)
        with pytest.raises(ValidationFailed):
            driver.step({**SEEN, "speed": float("nan")})
        assert driver.fallback_steps == 0
        with pytest.raises(ValueError, match="timeout is 0"):
            SafeDriver(client, deadline=0.0)


MISTAKES = {
    "UNAUTHORIZED": (error(401, "UNAUTHORIZED"), SEEN),
    "MODEL_NOT_FOUND": (error(404, "MODEL_NOT_FOUND"), SEEN),
    "PAYLOAD_TOO_LARGE": (error(413, "PAYLOAD_TOO_LARGE"), SEEN),
    "VALIDATION_ERROR": (error(422, "VALIDATION_ERROR"), SEEN),
    "TEAPOT": (error(418, "TEAPOT"), SEEN),
    "NaN": (Answer(), {**SEEN, "speed": float("nan")}),
    "no number": (Answer(), {**SEEN, "speed": object()}),
    "no observation": (error(422, "VALIDATION_ERROR"), None),
}


@pytest.mark.parametrize(("failure", "seen"), MISTAKES.values(), ids=MISTAKES)
def test_in_motion_nothing_is_raised(failure: Answer, seen: Any) -> None:
    with scripted() as server, PolicyClient(server.url, timeout=20.0) as client:
        driver = SafeDriver(client, deadline=20.0, fallback=Fallback(hold_steps=1, brake=0.5))
        good = driver.step(SEEN)
        server.answers = [failure]
        held, braked = driver.step(seen), driver.step(seen)
        server.answers = [Answer()]
        again = driver.step(SEEN)
    assert held.action == good.action
    assert braked.action == Action(0.0, 0.5, good.action.steer)
    assert held.error is not None
    assert not held.error.outage  # and told apart from an outage of the service
    assert again.error is None
    assert driver.recovery_steps == [2]


def test_a_closed_client_does_not_stop_a_car_in_motion() -> None:
    with scripted() as server, PolicyClient(server.url, timeout=20.0) as client:
        driver = SafeDriver(client, deadline=20.0)
        good = driver.step(SEEN)
        client.close()
        step = driver.step(SEEN)
        assert isinstance(step.error, ClientClosed)
        assert step.action == good.action
        with pytest.raises(ClientClosed):
            SafeDriver(client).step(SEEN)


def test_one_bad_reading_does_not_stop_a_car_of_the_real_service(gateway_url: str) -> None:
    with PolicyClient(gateway_url) as client:
        driver = SafeDriver(client, deadline=20.0)
        good = driver.step(SEEN)
        for seen in ({**SEEN, "speed": 201.0}, {**SEEN, "sensors": [0.5] * 4}):
            step = driver.step(seen)
            assert isinstance(step.error, ValidationFailed)
            assert step.action == good.action
        assert driver.step(SEEN).error is None
