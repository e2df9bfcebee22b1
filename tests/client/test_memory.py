"""Policies that remember: what the clients' calls of an episode give is what the policy does."""

from __future__ import annotations

import asyncio
import inspect
import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from carlarl_client import (
    AsyncPolicyClient,
    AsyncSafeDriver,
    AsyncSession,
    BadAnswer,
    Fallback,
    PolicyClient,
    SafeDriver,
    Session,
    StateMismatch,
    ValidationFailed,
)
from carlarl_client.carla import CarlaAgent
from carlarl_client.leaderboard import CarlaRLAgent
from carlarl_client.policy import RemotePolicy
from converters.artifact.artifact import Artifact
from converters.export.export import export
from converters.importers.sb3 import import_sb3
from examples.drive import Service, drive
from examples.latency import drive_late
from examples.track import TrackEnv
from tests.client.kinds import SEEN
from tests.client.scripted import GOOD, Answer, Scripted, error, scripted
from tests.client.small_world import World
from tests.memory import LocalPolicy, lstm_artifact, observations
from tests.stack import Stack, running_stack

CARS, EPISODES, SEED = 4, 8, 10_000
LAYOUT = ["throttle", "brake", "steer"]
EXACT = {"rtol": 0, "atol": 1e-6}
DONE = Answer(content={**GOOD, "states": ["abc"]})


def tracks() -> DummyVecEnv:
    env = DummyVecEnv([lambda: Monitor(TrackEnv(max_steps=60))] * CARS)
    env.seed(SEED)
    return env


def recurrent() -> Any:
    """A model that drives off the track sooner or later, and minds what it remembers."""
    lstm = {"lstm_hidden_size": 32, "n_lstm_layers": 2}
    model = RecurrentPPO("MlpLstmPolicy", tracks(), policy_kwargs=lstm, seed=1, device="cpu")
    with torch.no_grad():
        model.policy.lstm_actor.weight_ih_l0[:, 0] /= 200  # km/h
        model.policy.action_net.weight.mul_(30)
        model.policy.action_net.bias.copy_(torch.tensor([0.7, -0.5, 0.0]))
    return model


class Served:
    """A service with `model` as v0.1.0, and an LSTM as v0.2.0, which is active."""

    def __init__(self, stack: Stack, model: Any, artifact: Artifact) -> None:
        self.stack, self.url, self.model = stack, stack.gateway_url, model
        self._artifact = artifact

    def local(self) -> LocalPolicy:
        """v0.2.0 in this process."""
        return LocalPolicy(self._artifact)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, model = tmp_path_factory.mktemp("memory"), recurrent()
    model.save(folder / "model.zip")
    imported = import_sb3(
        folder / "model.zip",
        "v0.1.0",
        folder,
        vecnormalize="none",
        fields=["speed", "steering", "sensors"],
        layout=LAYOUT,
        scale="clip",
    )
    artifact = lstm_artifact(folder, "v0.2.0", seed=1)
    export([imported, folder / "v0.2.0"], folder / "repository", ["onnx"], activate="v0.2.0")
    with running_stack(MODEL_REPOSITORY=str(folder / "repository")) as stack:
        yield Served(stack, model, artifact)


@contextmanager
def sync(url: str) -> Iterator[tuple[Any, Any]]:
    """A client, and what returns the result of its calls."""
    with PolicyClient(url, timeout=20.0) as client:
        yield client, lambda result: result


@contextmanager
def twin(url: str) -> Iterator[tuple[Any, Any]]:
    client = AsyncPolicyClient(url, timeout=20.0)
    with asyncio.Runner() as runner:
        yield client, runner.run
        runner.run(client.aclose())


CLIENTS = pytest.mark.parametrize("connected", [sync, twin])


@CLIENTS
def test_a_session_is_the_local_policy(served: Served, connected: Any) -> None:
    local = served.local()
    with connected(served.url) as (client, done):
        session = client.session()
        for step, seen in enumerate(observations(60)):
            if step % 17 == 0:
                session.reset()
                local.reset()
            sampled = None if step % 3 else step
            asked = {"deterministic": sampled is None, "seed": sampled}
            action = done(session.predict(seen, **asked)).action
            np.testing.assert_allclose(action, local.act(seen, sampled), **EXACT)


@CLIENTS
def test_an_episode_goes_on_with_another_client(served: Served, connected: Any) -> None:
    local, (first, *rest) = served.local(), observations(20)
    local.act(first)
    with connected(served.url) as (client, done):
        session = client.session()
        done(session.predict(first, deterministic=True))
    with connected(served.url) as (client, done):
        again = client.session(state=session.state)
        for seen in rest:
            action = done(again.predict(seen, deterministic=True)).action
            np.testing.assert_allclose(action, local.act(seen), **EXACT)


def test_a_failed_call_leaves_the_memory(served: Served) -> None:
    local = served.local()
    with PolicyClient(served.url, timeout=20.0) as client, client.session() as session:
        for step, seen in enumerate(observations(12)):
            if step % 4 == 2:
                before = session.state
                with pytest.raises(ValidationFailed):
                    session.predict({**seen, "speed": 300.0})
                assert session.state == before is not None
            action = session.predict(seen, deterministic=True).action
            np.testing.assert_allclose(action, local.act(seen), **EXACT)


@CLIENTS
def test_rows_of_several_episodes_travel_together(served: Served, connected: Any) -> None:
    first, second = served.local(), served.local()
    seen = observations(3)
    with connected(served.url) as (client, done):
        one = done(client.predict(seen[0], deterministic=True))
        first.act(seen[0])
        states = [None, *one.states]
        both = done(client.predict(seen[1:], deterministic=True, states=states))
    assert len(both.states) == 2
    np.testing.assert_allclose(both.actions[0], second.act(seen[1]), **EXACT)
    np.testing.assert_allclose(both.actions[1], first.act(seen[2]), **EXACT)


@CLIENTS
def test_a_memory_that_does_not_fit_is_told(served: Served, connected: Any) -> None:
    with connected(served.url) as (client, done):
        session = client.session()
        done(session.predict(SEEN, version="v0.1.0", deterministic=True))
        assert done(session.predict(SEEN, deterministic=True)).version == "v0.1.0"
        state = session.state
        with pytest.raises(StateMismatch, match=r"the memory is of v0\.1\.0") as caught:
            done(session.predict(SEEN, version="v0.2.0"))
        assert (caught.value.status, caught.value.outage) == (409, False)
        assert session.state == state
        session.reset()
        assert done(session.predict(SEEN, deterministic=True)).version == "v0.2.0"
        with pytest.raises(StateMismatch, match="no token"):
            done(client.session(state=state[:-4]).predict(SEEN))


def test_a_policy_without_a_memory_gets_no_states(gateway_url: str) -> None:
    with scripted() as server, PolicyClient(server.url, timeout=20.0) as client:
        session = client.session()
        for _ in range(2):
            session.predict(SEEN, deterministic=True)
        assert not any("states" in request for request in server.requests)
        server.answers = [DONE, DONE, Answer()]
        for _ in range(2):
            session.predict(SEEN, deterministic=True)
        assert [request.get("states") for request in server.requests[2:]] == [None, ["abc"]]
        with pytest.raises(BadAnswer, match="states were sent, and none came"):
            session.predict(SEEN, deterministic=True)
        assert session.state == "abc"
    with PolicyClient(gateway_url, timeout=20.0) as client, client.session() as session:
        assert session.predict(SEEN, deterministic=True).states is None
        assert session.state is None


def test_many_large_memories_are_an_answer() -> None:
    states = ["x" * 120_000] * 30
    content = {**GOOD, "actions": GOOD["actions"] * 30, "states": states}
    with scripted() as server, PolicyClient(server.url, timeout=20.0) as client:
        server.answers = [Answer(content=content)]
        assert client.predict([SEEN] * 30, deterministic=True).states == tuple(states)


def test_evaluates_as_the_local_recurrent_model_does(served: Served) -> None:
    def evaluate(policy: Any) -> Any:
        return evaluate_policy(
            policy, tracks(), EPISODES, deterministic=True, return_episode_rewards=True
        )

    class Forgetful:
        def predict(self, seen: Any, deterministic: bool, **_: Any) -> Any:
            return served.model.predict(seen, deterministic=deterministic)

    expected, lengths = evaluate(served.model)
    with PolicyClient(served.url, timeout=20.0) as client:
        remote = RemotePolicy(client, version="v0.1.0", layout=LAYOUT)
        got, got_lengths = evaluate(remote)
    assert got_lengths == lengths
    assert len(set(lengths)) > 2  # they end, and start, at different steps
    assert got == pytest.approx(expected, rel=1e-5)
    assert evaluate(Forgetful())[0] != pytest.approx(expected, rel=1e-2)


def test_starts_are_per_environment(served: Served) -> None:
    locals_ = [served.local() for _ in range(CARS)]
    rows = np.array([[s["speed"], s["steering"], *s["sensors"]] for s in observations(CARS * 12)])
    drawn, state = np.random.RandomState(0), None
    with PolicyClient(served.url, timeout=20.0) as client:
        policy = RemotePolicy(client)
        for seen in rows.reshape(12, CARS, 7):
            starts = drawn.random(CARS) < 0.3
            actions, state = policy.predict(seen, state, starts, deterministic=True)
            for local, start, row, action in zip(locals_, starts, seen, actions, strict=True):
                if start:
                    local.reset()
                named = {"speed": row[0], "steering": row[1], "sensors": row[2:]}
                np.testing.assert_allclose(action, local.act(named), **EXACT)
        assert state is not None
        assert len(state) == CARS
        one, again = policy.predict(rows[0], state[:1], deterministic=True)
        assert one.shape == (3,)
        assert again is not None
        assert len(again) == 1
        for wrong in ({"state": state}, {"episode_start": [True, False]}):
            with pytest.raises(ValueError, match=r"has \d elements for 1 observations"):
                policy.predict(rows[0], **wrong)


def starting(server: Scripted) -> list[int]:
    """At which of the requests an episode starts."""
    return [index for index, asked in enumerate(server.requests) if "states" not in asked]


def test_a_carla_agent_starts_an_episode_with_its_block() -> None:
    world = World()
    with scripted() as server, PolicyClient(server.url) as client:
        server.answers = [DONE]
        driver = SafeDriver(client, deadline=20.0)
        agent = CarlaAgent(world, world.vehicle, driver, lambda _: [1.0] * 5)
        for _ in range(2):
            with agent:
                for _ in range(3):
                    agent.tick()
    assert starting(server) == [0, 3]


def test_a_leaderboard_agent_starts_an_episode_with_each_route(tmp_path: Path) -> None:
    world, route = World(), tmp_path / "agent.json"
    point = np.array([[10.0, 0.0, 0.0, 1.0]])
    sensed = {"LIDAR": (0, point), "SPEED": (0, {"speed": 1.0})}
    with scripted() as server:
        server.answers = [DONE]
        route.write_text(json.dumps({"url": server.url, "deadline": 20.0, "forget_steps": 9}))
        for _ in range(2):
            agent = CarlaRLAgent()
            agent.setup(str(route))
            for step in range(3):
                world.vehicle.apply_control(agent.run_step(sensed, step * 0.05))
            agent.destroy()
    assert starting(server) == [0, 3]


@pytest.mark.parametrize("late", [False, True])
def test_a_drive_starts_an_episode_where_the_car_is_put_back(late: bool) -> None:
    with scripted() as server, Service(server.url) as service:
        server.answers = [DONE]
        for _ in range(2):
            begun = len(server.requests)
            if late:
                off_track = drive_late(service, 0.0, 1, limit_s=15.0).off_track
            else:
                off_track = drive(service, 1, max_steps=300).off_track
            starts = [index for index in starting(server) if index >= begun]
            assert off_track > 1
            assert len(starts) == 1 + off_track
            assert starts[0] == begun


def test_a_drive_through_the_service_remembers(served: Served) -> None:
    local, env = served.local(), TrackEnv(put_back=True)
    seen, info = env.reset(options={"start": 0.0})
    begun = info["x"]
    with Service(served.url) as service:
        x = drive(service, 1, max_steps=60).x
    for there in x:
        speed, steering, *sensors = seen
        action = local.act({"speed": speed, "steering": steering, "sensors": sensors})
        seen, *_, info = env.step(action)
        assert info["off_track"] == 0
        assert info["x"] == pytest.approx(there, abs=1e-5)
    assert info["x"] > begun + 4.0  # metres: it drove


def test_a_driver_says_how_old_its_memory_is() -> None:
    failure = error(503, "SERVICE_UNAVAILABLE")
    with scripted() as server, PolicyClient(server.url, retries=0) as client:
        driver = SafeDriver(client, deadline=20.0, repeat=2, fallback=Fallback(forget_steps=3))
        answers = [DONE, DONE, failure, failure, failure, DONE, *[failure] * 4, DONE, DONE]
        server.answers = list(answers)
        steps = [driver.step(SEEN) for _ in range(16)]
        driver.reset()
        assert driver.step(SEEN).memory_steps is None
    ages = [step.memory_steps for step in steps]
    # 1 and 2: answered, and held; 2 to 5: none comes; 5: answered; the fourth miss is too much.
    assert ages == [None, 1, 2, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, None, 1, 2]
    assert all((step.memory_s is None) == (step.memory_steps is None) for step in steps)
    assert all(0.0 <= step.memory_s < 20.0 for step in steps if step.memory_s is not None)
    assert starting(server) == [0, 10, 12]


def test_a_memory_that_is_refused_in_motion_is_dropped() -> None:
    with scripted() as server, PolicyClient(server.url, retries=0) as client:
        driver = SafeDriver(client, deadline=20.0)
        server.answers = [DONE, error(409, "STATE_MISMATCH"), DONE]
        good, held, again = (driver.step(SEEN) for _ in range(3))
        assert isinstance(held.error, StateMismatch)
        assert held.action == good.action
        assert again.error is None
        assert [request.get("states") for request in server.requests] == [None, ["abc"], None]
        copied = pickle.loads(pickle.dumps(driver))
        with copied.client:
            assert copied.step(SEEN).memory_steps == 1
        assert server.requests[-1]["states"] == ["abc"]


def test_the_gateway_is_killed_in_mid_episode(served: Served) -> None:
    """And is started again: the policy goes on with what it remembered."""
    local, (first, second, *rest) = served.local(), observations(40)
    with PolicyClient(served.url, retries=0) as client:
        driver = SafeDriver(client, deadline=20.0)
        for seen in (first, second):
            np.testing.assert_allclose(driver.step(seen).action, local.act(seen), **EXACT)
        (gateway,) = (
            child
            for child in psutil.Process(served.stack.process.pid).children(recursive=True)
            if any(one.laddr.port == int(served.url.rpartition(":")[2]) for one in listening(child))
        )
        gateway.kill()
        gateway.wait()
        while (step := driver.step(rest[0])).error is not None:
            assert step.memory_steps == driver.missed
        assert step.memory_steps == driver.recovery_steps[0] + 1 > 1
        np.testing.assert_allclose(step.action, local.act(rest[0]), **EXACT)
        for seen in rest[1:]:
            np.testing.assert_allclose(driver.step(seen).action, local.act(seen), **EXACT)


def listening(process: psutil.Process) -> list[Any]:
    return [one for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]


def test_the_asyncio_driver_remembers(served: Served) -> None:
    async def run() -> None:
        local = served.local()
        async with AsyncPolicyClient(served.url) as client:
            driver = AsyncSafeDriver(client, deadline=20.0)
            for step, seen in enumerate(observations(12)):
                if step == 6:
                    driver.reset()
                    local.reset()
                np.testing.assert_allclose(
                    (await driver.step(seen)).action, local.act(seen), **EXACT
                )

    asyncio.run(run())


def test_both_sessions_take_the_same() -> None:
    assert inspect.signature(Session.predict) == inspect.signature(AsyncSession.predict)
