"""64 sessions of policies that remember, over two gateways and two Tritons, step for step."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import psutil
import pytest
import websockets
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack
from websockets.asyncio.client import connect

from converters.artifact.artifact import Artifact
from converters.artifact.versions import triton_version
from converters.importers.sb3 import import_sb3
from converters.repository import certificate
from tests.converters.random_env import Random
from tests.memory import NAMES, lstm_artifact, observations
from tests.stack import Stack, running_stack
from triton_backend import runtimes

pytestmark = pytest.mark.reliability

SESSIONS, STEPS = 64, 2000
POOL = 256
"""Different observations; each session takes them in an order of its own."""
EXACT = 1e-5
SECRET = "one-for-both-gateways"
WHEEL = spaces.Box(np.array([-1, -2], np.float32), np.array([1, 3], np.float32))

Act = Callable[[NDArray[np.int64], NDArray[np.bool_]], NDArray[np.float32]]
"""Which observation each session sees, and where an episode starts → their actions, (n, 3)."""


@dataclass
class Plan:
    """What each session does at each step, the same for every run: arrays of (sessions, steps)."""

    seen: NDArray[np.int64] = field(init=False)
    starts: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        source = np.random.RandomState(0)
        self.seen = source.randint(0, POOL, (SESSIONS, STEPS))
        self.starts = source.uniform(size=(SESSIONS, STEPS)) < 0.01
        self.starts[:, 0] = True

    def expected(self, act: Act) -> NDArray[np.float32]:
        """Return what the local policy does: (sessions, steps, 3)."""
        made = [act(self.seen[:, step], self.starts[:, step]) for step in range(STEPS)]
        return np.stack(made, axis=1)


@dataclass
class Drivers:
    """The sessions, half of them over streams and half over `/predict`, and what was answered."""

    urls: list[str]
    pool: list[Any]
    plan: Plan
    pause_s: float = 0.0
    actions: NDArray[np.float32] = field(init=False)
    versions: list[list[str]] = field(init=False)
    refused: int = 0
    lost: int = 0
    """Connections that broke, or were not made."""
    moved: int = 0
    """How often a session went on elsewhere."""

    def __post_init__(self) -> None:
        self.actions = np.full((SESSIONS, STEPS, len(NAMES)), np.nan, np.float32)
        self.versions = [[""] * STEPS for _ in range(SESSIONS)]

    async def run(self) -> None:
        drivers = [self._stream if index % 2 else self._predict for index in range(SESSIONS)]
        async with asyncio.TaskGroup() as group:
            for index, driver in enumerate(drivers):
                group.create_task(driver(index))

    def _answered(self, session: int, step: int, answer: dict[str, Any], action: Any) -> None:
        numbers = list(action.values()) if isinstance(action, dict) else action
        self.actions[session, step, : len(numbers)] = numbers
        self.versions[session][step] = answer["version"]

    async def _predict(self, session: int) -> None:
        """Any gateway takes the next step."""
        source = np.random.RandomState(session)
        state = None
        async with httpx.AsyncClient(timeout=30) as client:
            for step in range(STEPS):
                start = self.plan.starts[session, step]
                body = {
                    "observations": [self.pool[self.plan.seen[session, step]]],
                    "deterministic": True,
                    "states": [None if start else state],
                }
                while True:
                    url = self.urls[source.randint(len(self.urls))]
                    try:
                        answer = await client.post(f"{url}/predict", json=body)
                    except httpx.TransportError:
                        self.lost += 1
                        continue
                    if answer.status_code == 503:
                        self.refused += 1
                        continue
                    break
                assert answer.status_code == 200, answer.text
                told = answer.json()
                (state,) = told["states"]
                self._answered(session, step, told, told["actions"][0])
                await asyncio.sleep(self.pause_s)

    async def _stream(self, session: int) -> None:
        """Now and then, and where the gateway is lost, the stream goes on at the other one."""
        source = np.random.RandomState(session)
        state: str | None = None
        step, place = 0, session // 2
        while step < STEPS:
            address = self.urls[place % len(self.urls)].replace("http", "ws") + "/stream"
            place += 1
            try:
                async with connect(address, proxy=None, compression=None) as connection:
                    first = True
                    while step < STEPS and (first or source.uniform() > 0.01):
                        frame: dict[str, Any] = {
                            "stepId": step,
                            "observation": self.pool[self.plan.seen[session, step]],
                            "deterministic": True,
                            "returnState": True,
                        }
                        if self.plan.starts[session, step]:
                            frame["episodeStart"] = True
                        elif first:
                            frame["state"] = state
                        await connection.send(json.dumps(frame))
                        answer = json.loads(await connection.recv())
                        if answer.get("error") == "SERVICE_UNAVAILABLE":
                            self.refused += 1
                            break
                        assert "action" in answer, answer
                        self._answered(session, step, answer, answer["action"])
                        state, first = answer["state"], False
                        step += 1
                        await asyncio.sleep(self.pause_s)
            except (OSError, websockets.ConnectionClosed, websockets.InvalidMessage):
                self.lost += 1
            self.moved += 1


def away(made: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    made = made[..., : expected.shape[-1]]
    assert not np.isnan(made).any()
    return float(np.abs(made - expected).max())


class Recurrent:
    """All sessions of sb3-contrib's own policy."""

    seen = spaces.Box(-1, 1, (7,), np.float32)
    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, folder: Path) -> None:
        self._model: Any = RecurrentPPO(
            "MlpLstmPolicy",
            Random(self.seen, WHEEL),
            **{"n_steps": 8, "batch_size": 8, "n_epochs": 1, "seed": 1, "device": "cpu"},
            policy_kwargs={"lstm_hidden_size": 64, "n_lstm_layers": 2},
        ).learn(8)
        self._model.save(folder / "policy.zip")
        self.rows = np.random.RandomState(1).uniform(-1, 1, (POOL, 7)).astype(np.float32)
        self.pool = [{"seen": row} for row in self.rows.tolist()]
        self._state: Any = None

    def __call__(self, seen: NDArray[np.int64], starts: NDArray[np.bool_]) -> NDArray[np.float32]:
        made, self._state = self._model.predict(self.rows[seen], self._state, starts, True)
        return np.asarray(made)


class Stacked:
    """All sessions of Stable-Baselines3's NatureCNN behind VecFrameStack."""

    seen = spaces.Box(0, 255, (84, 84, 1), np.uint8)
    options: ClassVar[dict[str, Any]] = {"frame_stack": 4}

    def __init__(self, folder: Path) -> None:
        world = VecFrameStack(DummyVecEnv([lambda: Random(self.seen, WHEEL)]), 4)
        training = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "seed": 1, "device": "cpu"}
        self._model: Any = PPO("CnnPolicy", world, **training).learn(8)
        self._model.save(folder / "policy.zip")
        source = np.random.RandomState(1)
        light = source.uniform(size=(POOL, 1, 1, 1))
        self.rows = (source.randint(0, 256, (POOL, 84, 84, 1)) * light).astype(np.uint8)
        self.pool = [base64.b64encode(one.tobytes()).decode() for one in self.rows]
        self._frames = np.zeros((SESSIONS, 84, 84, 4), np.uint8)

    def __call__(self, seen: NDArray[np.int64], starts: NDArray[np.bool_]) -> NDArray[np.float32]:
        self._frames[starts] = 0
        self._frames = np.concatenate([self._frames[..., 1:], self.rows[seen]], axis=-1)
        made, _ = self._model.predict(self._frames, deterministic=True)
        return np.asarray(made)


class Local:
    """All sessions of an exported policy in this process: its bits, as its certificate says."""

    def __init__(self, repository: Path, source: Artifact, pool: list[Any]) -> None:
        version, signature = source.card.version, source.card.signature
        (line,) = (
            one
            for one in certificate.lines(version, certificate.read(repository, version))
            if one.format == "onnx"
        )
        assert line.bit_exact
        folder = repository / f"policy_onnx-{version}" / str(triton_version(version))
        self._infer = runtimes.onnx(folder / "model.onnx")
        flat = [[one["speed"], one["steering"], *one["sensors"]] for one in pool]
        self._features = source.preprocessing.features(np.array(flat, np.float32))
        self._noise = np.zeros((SESSIONS, source.preprocessing.noise), np.float32)
        self._state = [np.zeros((SESSIONS, *one.shape), one.dtype) for one in signature.state]

    def __call__(self, seen: NDArray[np.int64], starts: NDArray[np.bool_]) -> NDArray[np.float32]:
        given = self._features[seen], self._noise, starts[:, None]
        action, *self._state = self._infer(*given, *self._state)
        return np.asarray(action)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan()


@pytest.fixture(scope="module")
def pool() -> list[Any]:
    return observations(POOL)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Artifact]]:
    folder = tmp_path_factory.mktemp("artifacts")
    return folder, [
        lstm_artifact(folder, version, hidden)
        for version, hidden in (("v0.1.0", 64), ("v0.2.0", 128))
    ]


@pytest.fixture(scope="module")
def repository(
    sources: tuple[Path, list[Artifact]],
    tmp_path_factory: pytest.TempPathFactory,
    carlarl: Callable[..., Any],
) -> Path:
    target = tmp_path_factory.mktemp("repository") / "models"
    where = ("--artifacts", str(sources[0]), "--repository", str(target))
    done = carlarl("export", *where, "--activate", "v0.1.0")
    assert done.returncode == 0, done.stderr
    return target


@contextmanager
def stacks(repository: Path, count: int) -> Iterator[list[Stack]]:
    """Run so many gateways, each with a Triton of its own."""
    with ExitStack() as running:
        yield [
            running.enter_context(
                running_stack(
                    "--repository",
                    str(repository),
                    STATE_SECRET=SECRET,
                    RESTART_TRIES="0",
                    REQUEST_TIMEOUT_MS="20000",
                )
            )
            for _ in range(count)
        ]


@pytest.mark.parametrize("kind", [Recurrent, Stacked])
def test_as_the_library_does(
    kind: type[Recurrent | Stacked], plan: Plan, tmp_path: Path, carlarl: Callable[..., Any]
) -> None:
    """Each step's action is that of the library, over two gateways and two Tritons."""
    local = kind(tmp_path)
    told = {"vecnormalize": "none", "fields": ["seen"]} if kind is Recurrent else kind.options
    import_sb3(tmp_path / "policy.zip", "v1.0.0", tmp_path / "artifacts", **told)
    where = ("--artifacts", str(tmp_path / "artifacts"), "--repository", str(tmp_path / "models"))
    done = carlarl("export", *where)
    assert done.returncode == 0, done.stderr
    with stacks(tmp_path / "models", 2) as both:
        drivers = Drivers([one.gateway_url for one in both], local.pool, plan)
        asyncio.run(drivers.run())
        assert drivers.moved > SESSIONS  # a stream goes on elsewhere about each hundred steps
    assert away(drivers.actions, plan.expected(local)) < EXACT


def test_a_gateway_is_killed_in_mid_episode(
    repository: Path, sources: tuple[Path, list[Artifact]], plan: Plan, pool: list[Any]
) -> None:
    """Not one step differs from those of the local policy: with both gateways, then with one."""

    async def run(lost: Stack, left: Stack) -> Drivers:
        drivers = Drivers([lost.gateway_url, left.gateway_url], pool, plan)
        driving = asyncio.create_task(drivers.run())
        while not np.isfinite(drivers.actions[:, STEPS // 3]).all():
            await asyncio.sleep(0.1)
            assert not driving.done()
        assert not drivers.lost
        (gateway,) = (
            one
            for one in psutil.Process(lost.process.pid).children()
            if one.cmdline()[1:3] == ["-m", "gateway"]
        )
        gateway.kill()
        await driving
        assert drivers.lost > SESSIONS / 4
        return drivers

    with stacks(repository, 2) as (lost, left):
        drivers = asyncio.run(run(lost, left))
    local = Local(repository, sources[1][0], pool)
    assert np.array_equal(drivers.actions, plan.expected(local))


def test_promoted_and_rolled_back(
    sources: tuple[Path, list[Artifact]],
    repository: Path,
    plan: Plan,
    pool: list[Any],
    carlarl: Callable[..., Any],
) -> None:
    """Each episode is answered by one version from its start to its end."""

    def command(*words: str) -> None:
        done = carlarl(*words, "--repository", str(repository))
        assert done.returncode == 0, done.stderr

    async def run(stack: Stack) -> Drivers:
        drivers = Drivers([stack.gateway_url], pool, plan)
        driving = asyncio.create_task(drivers.run())
        for part, words in ((4, ("promote", "v0.2.0")), (2, ("rollback",))):
            while not np.isfinite(drivers.actions[:, STEPS // part]).all():
                await asyncio.sleep(0.1)
                assert not driving.done()
            await asyncio.to_thread(command, *words)
        await driving
        return drivers

    with stacks(repository, 1) as (stack,):
        drivers = asyncio.run(run(stack))
    expected = {
        source.card.version: plan.expected(Local(repository, source, pool)) for source in sources[1]
    }
    assert drivers.refused == 0
    versions = np.array(drivers.versions)
    assert set(expected) == set(versions.ravel())
    starts = plan.starts
    for session in range(SESSIONS):
        changed = versions[session, 1:] != versions[session, :-1]
        assert not (changed & ~starts[session, 1:]).any()
    for version, right in expected.items():
        mine = versions == version
        assert np.array_equal(drivers.actions[mine], right[mine])
    assert (versions[:, -1] == "v0.1.0").mean() > 0.5  # the others' episodes are long
