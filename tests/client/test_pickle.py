"""What vectorised environments by spawn send to their processes arrives there and works."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

import carlarl_client
from carlarl_client import (
    Action,
    AsyncPolicyClient,
    AsyncSafeDriver,
    Fallback,
    LatencyInTheLoop,
    PolicyClient,
    PolicyError,
    SafeDriver,
)
from carlarl_client.policy import RemotePolicy
from tests.client.kinds import SEEN
from tests.client.scripted import ACTION, Scripted, error, scripted

ERRORS = [
    kind
    for kind in vars(carlarl_client).values()
    if isinstance(kind, type) and issubclass(kind, PolicyError)
]
KNOWN: dict[str, Any] = {
    "code": "TEAPOT",
    "request_id": "abc",
    "status": 418,
    "details": {"request_id": "abc"},
    "retry_after_s": 1.5,
    "unsent": True,
}


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted() as server:
        yield server


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("known", [{}, KNOWN], ids=["little", "all"])
def test_errors(kind: type[PolicyError], known: dict[str, Any]) -> None:
    error = kind("so it is", **known)
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(copied) is kind
        assert vars(copied) == vars(error)
        assert str(copied) == str(error)
        assert copied.outage == error.outage


def test_a_client_with_open_connections(server: Scripted) -> None:
    with PolicyClient(server.url, api_key="let-me-in", timeout=20.0, retries=1) as client:
        client.predict(SEEN, deterministic=True)
        with pickle.loads(pickle.dumps(client)) as copied:
            assert (copied.url, copied.timeout, copied.retries) == (server.url, 20.0, 1)
            assert copied.predict(SEEN, deterministic=True).action == Action(**ACTION)
    assert len(server.connections) == 2
    assert server.heads[1]["x-api-key"] == "let-me-in"


def test_an_asyncio_client(server: Scripted) -> None:
    async def ask() -> None:
        async with AsyncPolicyClient(server.url, timeout=20.0) as client:
            await client.predict(SEEN, deterministic=True)
            async with pickle.loads(pickle.dumps(client)) as copied:
                answer = await copied.predict(SEEN, deterministic=True)
                assert pickle.loads(pickle.dumps(answer)) == answer
            driver = pickle.loads(pickle.dumps(AsyncSafeDriver(client, deadline=20.0)))
            async with driver.client:
                assert (await driver.step(SEEN)).error is None

    asyncio.run(ask())


def test_a_driver_keeps_its_drive(server: Scripted) -> None:
    with PolicyClient(server.url, timeout=20.0) as client:
        driver = SafeDriver(client, deadline=20.0, fallback=Fallback(hold_steps=1))
        driver.step(SEEN)
        server.answers = [error(404, "MODEL_NOT_FOUND")]
        copied = pickle.loads(pickle.dumps(driver))
        with copied.client:
            step = copied.step(SEEN)
        assert step.action == Action(**ACTION)  # held: it was in motion
        assert pickle.loads(pickle.dumps(step)).error.code == "MODEL_NOT_FOUND"
        loop = LatencyInTheLoop(0.05, 100.0)
        assert vars(pickle.loads(pickle.dumps(loop))) == vars(loop)


def ask_elsewhere(driver: SafeDriver, policy: RemotePolicy, answers: Any) -> None:
    step = driver.step(SEEN)
    actions, _ = policy.predict([25.5, 0.1, 0.8, 0.2, 0.5, 0.9, 0.1], deterministic=True)
    answers.put((step.action, step.error, actions.tolist()))


def test_they_work_in_a_spawned_process(gateway_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with PolicyClient(gateway_url, timeout=60.0) as client:
        driver = SafeDriver(client, deadline=60.0)
        here = driver.step(SEEN).action
        policy = RemotePolicy(client)
        arguments = (driver, policy, answers)
        process = context.Process(target=ask_elsewhere, args=arguments)
        process.start()
        there, failed, actions = answers.get(timeout=90)
        process.join()
    assert failed is None
    assert there == here
    assert actions == pytest.approx(list(here))
