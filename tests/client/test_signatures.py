"""Policies of other signatures: any observation, and actions in spaces of their own."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import gymnasium.spaces as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from carlarl.promotion import promote
from carlarl.promotion.triton_control import TritonControl
from carlarl_client import (
    Action,
    AsyncPolicyClient,
    AsyncSafeDriver,
    BadAnswer,
    Fallback,
    PolicyClient,
    SafeDriver,
    Unsupported,
    ValidationFailed,
)
from carlarl_client._spaces import Described, own_action, packed
from carlarl_client.policy import RemotePolicy
from converters.artifact import artifact
from converters.export import parity
from converters.export.export import export
from policy_spec.validate import pack
from tests.carlarl.test_promotion import follows
from tests.client.kinds import KINDS
from tests.client.scripted import ACTION, GOOD, Answer, scripted
from tests.converters.policies_of_spaces import make
from tests.stack import ROOT, Stack, running_stack

OBSERVATION = {
    "type": "Dict",
    "subspaces": {
        "camera": {"type": "Box", "dtype": "uint8", "shape": [9, 9], "low": 0, "high": 255},
        "lidar": {"type": "Box", "dtype": "float32", "shape": [70], "low": -1, "high": 1},
        "speed": {"type": "Box", "dtype": "float32", "shape": [1], "low": 0, "high": 200},
        "order": {"type": "Discrete", "n": 4},
    },
}
VECTOR = {"type": "Box", "dtype": "float32", "shape": [3], "low": "-inf", "high": "inf"}
TABLE = [{"throttle": 0.5, "steer": -0.5, "reverse": True}, {"brake": 1.0}]
FIELDS = {
    "type": "Dict",
    "subspaces": {
        "speed": {"type": "Box", "dtype": "float32", "shape": [1], "low": 0, "high": 200},
        "rest": {"type": "Box", "dtype": "float32", "shape": [2], "low": -1, "high": 1},
    },
}
BOX: dict[str, Any] = {"type": "Box", "dtype": "float32", "shape": [2], "low": -2, "high": [5, 1]}
SPACES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "v1.0.0": (OBSERVATION, {"type": "Discrete", "n": 5}, {}),
    "v1.1.0": (VECTOR, {"type": "MultiDiscrete", "nvec": [3, 2]}, {}),
    "v1.2.0": (VECTOR, {"type": "MultiBinary", "n": 4}, {}),
    "v1.3.0": (FIELDS, BOX, {"distribution": {"std": "parameter", "squash": "clip"}}),
    "v1.4.0": (VECTOR, {"type": "Discrete", "n": 2}, {"control": {"table": TABLE}}),
}
ROWS = 6


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Path]]:
    folder = tmp_path_factory.mktemp("signatures")
    for version, (observation, action, more) in SPACES.items():
        spaces = {"observation_space": observation, "action_space": action}
        make(folder / "artifacts" / version, {**spaces, **more})
    target = folder / "model_repository"
    export([ROOT / "artifacts/v0.2.0", *sorted((folder / "artifacts").iterdir())], target, ["onnx"])
    with TritonControl("http://127.0.0.1:1") as nobody:
        assert not nobody.answers()
    promote.promote(target, "v1.0.0", None, allow_signature_change=True)
    with running_stack(MODEL_REPOSITORY=str(target), REQUEST_TIMEOUT_MS="60000") as stack:
        yield stack, folder


@pytest.fixture(params=SPACES)
def served(live: tuple[Stack, Path], request: pytest.FixtureRequest) -> tuple[str, str, Path]:
    """Each version, promoted: the gateway's URL, the version and its artifact."""
    stack, folder = live
    activate(stack, folder, request.param)
    return stack.gateway_url, request.param, folder / "artifacts" / request.param


def activate(stack: Stack, folder: Path, version: str) -> None:
    with TritonControl(f"http://{stack.triton_http}") as control:
        target = folder / "model_repository"
        promote.promote(target, version, control, allow_signature_change=True)
    follows(stack, version)


def environment(observation: dict[str, Any], action: dict[str, Any]) -> Any:
    """An environment of these spaces, for a model that is not trained."""

    def made(space: dict[str, Any]) -> gym.Space[Any]:
        kind = space["type"]
        if kind == "Dict":
            return gym.Dict({name: made(part) for name, part in space["subspaces"].items()})
        if kind == "Box":
            ends = [np.array(space[end], float) for end in ("low", "high")]
            low, high = (np.broadcast_to(end, space["shape"]) for end in ends)
            dtype = np.dtype(space["dtype"])
            return gym.Box(low.astype(dtype), high.astype(dtype), dtype=dtype.type)
        return getattr(gym, kind)(space.get("n", space.get("nvec")))

    class Nowhere(gymnasium.Env[Any, Any]):
        observation_space, action_space = made(observation), made(action)

    return Nowhere()


def drawn(space: gym.Space[Any], rows: int) -> Any:
    """Observations as a vectorised environment gives them."""
    space.seed(7)
    samples = [space.sample() for _ in range(rows)]
    if isinstance(space, gym.Dict):
        return {name: np.stack([one[name] for one in samples]) for name in space.spaces}
    return np.clip(np.stack(samples), -3, 3)


def own_actions(source: Path, rows: list[Any]) -> np.ndarray:
    """The policy's own deterministic actions, by PyTorch."""
    loaded = artifact.load(source)
    space = loaded.card.signature.observation_space
    found = [
        pack(space, json.loads(json.dumps(one, default=lambda held: held.tolist()))) for one in rows
    ]
    leaves = loaded.preprocessing.leaves
    values = tuple(
        np.stack(
            [
                np.frombuffer(row[leaf.name], leaf.space.dtype).reshape(leaf.dims)  # type: ignore[arg-type]
                for row in found
            ]
        )
        for leaf in leaves
    )
    with torch.no_grad():
        given = loaded.policy(*map(torch.from_numpy, parity.inputs(loaded, values)))
    return np.array(given[-1] if isinstance(given, tuple) else given)


def rows_of(observations: Any) -> list[Any]:
    if isinstance(observations, dict):
        names = list(observations)
        return [dict(zip(names, row, strict=True)) for row in zip(*observations.values())]  # noqa: B905
    return list(observations)


@pytest.mark.live
def test_a_remote_policy_is_as_a_model_of_stable_baselines3(served: tuple[str, str, Path]) -> None:
    """The same shapes and types as the library's own, and the actions of the served network."""
    url, version, source = served
    env = environment(*SPACES[version][:2])
    several = drawn(env.observation_space, ROWS)
    policy = "MultiInputPolicy" if isinstance(several, dict) else "MlpPolicy"
    model = PPO(policy, env, n_steps=2, batch_size=2, device="cpu")
    first = {k: v[0] for k, v in several.items()} if isinstance(several, dict) else several[0]
    with PolicyClient(url, timeout=60.0) as client:
        remote = RemotePolicy(client)
        got, _ = remote.predict(several, deterministic=True)
        one, _ = remote.predict(first, deterministic=True)
        sampled, _ = remote.predict(several)
    assert remote.version == version
    expected, _ = model.predict(several, deterministic=True)
    single, _ = model.predict(first, deterministic=True)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    assert (one.shape, one.dtype) == (single.shape, single.dtype)
    np.testing.assert_array_equal(one, got[0])
    assert (sampled.shape, sampled.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(
        got.reshape(ROWS, -1), own_actions(source, rows_of(several)).reshape(ROWS, -1), atol=1e-5
    )


@pytest.mark.live
def test_vectors_are_cut_into_fields(live: tuple[Stack, Path]) -> None:
    stack, folder = live
    activate(stack, folder, "v1.3.0")
    rest = np.linspace(-1, 1, 2 * ROWS, dtype=np.float32).reshape(ROWS, 2)
    speed = np.arange(ROWS, dtype=np.float32)
    with PolicyClient(stack.gateway_url, timeout=60.0) as client:
        remote = RemotePolicy(client)
        by_name, _ = remote.predict({"speed": speed[:, None], "rest": rest}, deterministic=True)
        flat, _ = remote.predict(np.column_stack((speed, rest)), deterministic=True)
        np.testing.assert_array_equal(flat, by_name)
        for wrong in (np.zeros(4), np.zeros((2, 3, 3)), {"speed": speed}, np.zeros((0, 3))):
            with pytest.raises(ValueError, match=r"shape|takes"):
                remote.predict(wrong, deterministic=True)
        with pytest.raises(ValueError, match="differ in their number"):
            remote.predict({"speed": speed[:, None], "rest": rest[:2]}, deterministic=True)


@pytest.mark.live
def test_arrays_travel_as_bytes(live: tuple[Stack, Path]) -> None:
    """Large arrays as bytes give what lists give; what a Box can't hold is refused by its path."""
    stack, folder = live
    activate(stack, folder, "v1.0.0")
    camera = np.arange(81, dtype=np.uint8).reshape(9, 9)
    seen = {"camera": camera, "lidar": np.linspace(-1, 1, 70), "speed": np.float32([3]), "order": 2}
    lists = {**seen, "camera": camera.tolist(), "lidar": seen["lidar"].tolist(), "speed": [3.0]}  # type: ignore[attr-defined]
    with PolicyClient(stack.gateway_url, timeout=60.0) as client:
        expected = client.predict(lists, deterministic=True)
        assert client._described == {"v1.0.0": client._described["v1.0.0"]}, "asked for the action"
        for other in (
            seen,
            {**seen, "camera": camera.tobytes()},
            {**seen, "camera": camera.T.copy().T},
        ):
            assert client.predict(other, deterministic=True).actions == expected.actions
        for wrong, path in (
            ({**seen, "camera": camera.astype(np.float64) + 0.5}, "camera.0.0"),
            ({**seen, "lidar": seen["lidar"] * 2}, "lidar.0"),  # type: ignore[operator]
            ({**seen, "lidar": seen["lidar"][:66]}, "lidar"),  # type: ignore[index]
        ):
            with pytest.raises(ValidationFailed) as caught:
                client.predict(wrong, deterministic=True)
            (problem,) = caught.value.details["validation_errors"]
            assert problem["field"] == f"observations.0.{path}"
        assert client.predict([seen] * 3, policy_actions=True, seed=1).policy_actions is not None

    async def twin() -> Any:
        async with AsyncPolicyClient(stack.gateway_url, timeout=60.0) as client:
            return await client.predict(seen, deterministic=True)

    assert asyncio.run(twin()).actions == expected.actions


@pytest.mark.live
def test_who_drives_no_car_is_refused(live: tuple[Stack, Path]) -> None:
    stack, folder = live
    activate(stack, folder, "v1.1.0")

    async def twin() -> None:
        async with AsyncPolicyClient(stack.gateway_url, timeout=60.0) as client:
            await AsyncSafeDriver(client, deadline=20.0).step([0.1, 0.2, 0.3])

    with PolicyClient(stack.gateway_url, timeout=60.0) as client:
        driver = SafeDriver(client, deadline=20.0)
        with pytest.raises(Unsupported, match=r"v1\.1\.0 drives no car"):
            driver.step([0.1, 0.2, 0.3])
        with pytest.raises(Unsupported, match=r"v1\.1\.0 drives no car"):
            asyncio.run(twin())
        activate(stack, folder, "v1.4.0")
        driven = driver.step([0.1, 0.2, 0.3])
        expected = {Action(0.5, 0.0, -0.5, reverse=True), Action(0.0, 1.0, 0.0)}
        assert driven.action in expected
        activate(stack, folder, "v1.1.0")
        held = driver.step([0.1, 0.2, 0.3])  # in motion nothing is raised
        assert isinstance(held.error, Unsupported)
        assert held.action == driven.action


@pytest.mark.live
def test_the_command_line_asks_them(
    live: tuple[Stack, Path], command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    stack, folder = live
    url = ("--url", stack.gateway_url)
    activate(stack, folder, "v1.1.0")
    asked = command("predict", "--observation", "[0.1, 0.2, 0.3]", *url, "--json")
    (action,) = json.loads(asked.stdout)["actions"]
    assert command("predict", "--observation", "[0.1, 0.2, 0.3]", *url).stdout == f"{action}\n"
    wrong = command("predict", "--observation", "[0.1, 0.2]", *url)
    assert (wrong.returncode, "observations.0: " in wrong.stderr) == (1, True)
    activate(stack, folder, "v1.3.0")
    fields = ("--field", "speed=3,", "--field", "rest=0.5,-0.25")
    told = command("predict", *fields, "--policy-actions", *url).stdout
    asked = command("predict", "--observation", '{"speed": [3], "rest": [0.5, -0.25]}', *url)
    assert told == f"{asked.stdout.strip()}  policy {asked.stdout}"
    activate(stack, folder, "v1.4.0")
    told = command("predict", "--observation", "[1, 2, 3]", "--policy-actions", *url).stdout
    assert "  reverse o" in told
    assert told.strip()[-len("policy 0") :] in ("policy 0", "policy 1")
    driven = command("drive", *url)
    assert driven.returncode == 1
    assert "v1.4.0 takes other observations than the track's" in driven.stderr


DISCRETE = {"type": "Discrete", "dtype": "int64", "start": 2, "n": 3}
BRANCHES = {"type": "MultiDiscrete", "nvec": [3, 2], "start": [0, 5]}
BITS = {"type": "MultiBinary", "n": [2, 2]}
IMAGE = {"type": "Box", "dtype": "uint8", "shape": [], "low": 0, "high": 255}
NESTED = {"type": "Box", "dtype": "float32", "shape": [1, 2], "low": [[-1, "-inf"]], "high": 0.3}


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (DISCRETE, 2),
        (DISCRETE, 4),
        (BRANCHES, [2, 6]),
        (BITS, [[0, 1], [1, 1]]),
        (IMAGE, 255),
        (NESTED, [[0.30000001192092896, -1e30]]),
        (NESTED, [[0, 0]]),
        (None, [[1.5, 2], 3]),
    ],
)
def test_actions_of_a_space(space: Any, value: Any) -> None:
    assert own_action(value, space) == value


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (DISCRETE, 1),
        (DISCRETE, 5),
        (DISCRETE, 2.0),
        (DISCRETE, True),
        (DISCRETE, [2]),
        (BRANCHES, [0, 4]),
        (BRANCHES, [3, 5]),
        (BRANCHES, [0]),
        (BITS, [[0, 2], [1, 1]]),
        (BITS, [0, 1, 1, 1]),
        (IMAGE, 1.0),
        (NESTED, [[0.31, 0.0]]),
        (NESTED, [[-1.1, 0.0]]),
        (NESTED, [[0.0, "0"]]),
        (NESTED, [[0.0, float("-inf")]]),
        (NESTED, [[0.0, float("nan")]]),
        (NESTED, {"0": 1}),
        (None, "fast"),
        (None, [None]),
        (None, [float("inf")]),
        (None, {"throttle": 1.0}),
    ],
)
def test_what_is_no_action_of_a_space(space: Any, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        own_action(value, space)


@KINDS
@pytest.mark.parametrize(
    "metadata",
    [
        {"version": "v0.2.0", "observationSpace": {}, "policyActionSpace": DISCRETE, "control": {}},
        {"version": "v0.2.0", "observationSpace": {}, "policyActionSpace": BRANCHES},
        {"version": "v0.2.0", "observationSpace": {}, "policyActionSpace": {"type": "Graph"}},
        {"version": "v0.2.0", "observationSpace": [], "policyActionSpace": DISCRETE},
        {"version": "v0.2.0", "sensors": 5},
        {"version": None},
    ],
)
def test_an_action_that_fits_no_space_is_an_outage(kind: Any, metadata: dict[str, Any]) -> None:
    with scripted() as server:
        server.answers = [Answer(content={**GOOD, "actions": [3]}), Answer(content=metadata)]
        with pytest.raises(BadAnswer):
            kind(server.url).predict([[0.1]], deterministic=True)
        assert len(server.requests) == 2


@KINDS
def test_a_space_is_asked_for_once(kind: Any) -> None:
    told = {"version": "v0.2.0", "observationSpace": {}, "policyActionSpace": DISCRETE}
    with scripted() as server:
        answer = Answer(content={**GOOD, "actions": [3]})
        server.answers = [answer, Answer(content=told), answer]
        outcomes = kind(server.url).predict_all([[1], [1], [1]], deterministic=True)
        assert [one.actions for one, _ in outcomes] == [(3,)] * 3
        assert len(server.requests) == 4


def test_a_version_that_nobody_describes_may_answer_any_numbers() -> None:
    told = Described("v0.2.0", {}, DISCRETE, False)
    with scripted() as server, PolicyClient(server.url, timeout=20.0) as client:
        content = {**GOOD, "version": "v0.1.0", "actions": [[7.5, 2]]}
        metadata = {"version": told.version, "observationSpace": {}, "policyActionSpace": DISCRETE}
        server.answers = [
            Answer(content=content),
            Answer(content=metadata),
            Answer(content=content),
        ]
        for _ in "12":
            answer = client.predict([[1]], deterministic=True, version="v0.1.0")
            assert answer.actions == ([7.5, 2],)
        assert len(server.requests) == 3


def test_an_older_gateway_gets_lists() -> None:
    with scripted() as server, PolicyClient(server.url, timeout=20.0) as client:
        server.answers = [Answer(content={"version": "v0.2.0", "sensors": 70}), Answer()]
        sensors = np.linspace(0, 1, 70)
        client.predict({"speed": 1.0, "steering": 0.0, "sensors": sensors}, deterministic=True)
        assert server.requests[1]["observations"][0]["sensors"] == sensors.tolist()
        assert set(server.requests[1]) == {"deterministic", "observations"}


def test_only_what_fits_is_packed() -> None:
    box = {"type": "Box", "dtype": "float32", "shape": [65], "low": -1, "high": 1}
    pair = {"type": "Tuple", "subspaces": [box, {"type": "Discrete", "n": 2}]}
    values = np.linspace(-1, 1, 65)
    assert packed(values, box) == values.astype("<f4").tobytes()
    assert packed(values.astype(">f4"), box) == values.astype("<f4").tobytes()
    assert packed((values, 1, 2), pair) == [values.astype("<f4").tobytes(), 1, 2]
    for kept in (values.astype(int), values[:64], values.reshape(5, 13), values.tolist(), None):
        assert packed(kept, box) is kept


def test_an_action_is_a_tuple_of_three_with_switches() -> None:
    action = Action(0.5, 0.0, -0.25, reverse=True)
    throttle, brake, steer = action
    assert (throttle, brake, steer) == (0.5, 0.0, -0.25)
    assert (action.reverse, action.hand_brake) == (True, False)
    assert np.array(action).shape == (3,)
    assert action != Action(0.5, 0.0, -0.25)
    assert Action(0.5, 0.0, -0.25) == (0.5, 0.0, -0.25)
    assert Action(0.5, 0.0, -0.25) != (0.5, 0.0, 0.25)
    assert len({action, copy.copy(action), pickle.loads(pickle.dumps(action))}) == 1
    assert action._replace(steer=0.0) == Action(0.5, 0.0, 0.0, reverse=True)
    assert repr(action) == "Action(throttle=0.5, brake=0.0, steer=-0.25, reverse=True)"
    assert Fallback(hold_steps=0).action(action, 1) == Action(0.0, 0.5, -0.25, reverse=True)


@pytest.mark.parametrize("switch", [1, 1.0, "on", None])
def test_a_switch_that_is_none_is_an_outage(switch: Any) -> None:
    with scripted() as server, PolicyClient(server.url, timeout=20.0) as client:
        server.answers = [Answer(content={**GOOD, "actions": [{**ACTION, "reverse": switch}]})]
        with pytest.raises(BadAnswer, match="no bool"):
            client.predict([[1]], deterministic=True)


def test_an_answer_holds_for_some_steps() -> None:
    with scripted() as server, PolicyClient(server.url, timeout=20.0, retries=0) as client:
        driver = SafeDriver(client, deadline=20.0, repeat=3)
        steps = [driver.step([1.0]) for _ in range(7)]
        assert len(server.requests) == 3
        assert [step.latency_ms > 0 for step in steps] == [True, False, False] * 2 + [True]
        assert {step.action for step in steps} == {Action(0.5, 0.0, -0.25)}
        assert (driver.steps, driver.fallback_steps) == (7, 0)
        server.answers = [Answer(drop=True)]
        assert [driver.step([1.0]).error is None for _ in range(4)] == [True, True, False, False]
        with pytest.raises(ValueError, match="repeat is 0"):
            SafeDriver(client, repeat=0)
