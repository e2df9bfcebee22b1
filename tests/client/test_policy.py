"""The served policy in the place of a Stable-Baselines3 model, on the same seeds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from carlarl_client import BadAnswer, ModelNotFound, PolicyClient
from carlarl_client.policy import RemotePolicy
from converters.export.export import export
from converters.importers.sb3 import import_sb3
from examples.track import TrackEnv
from tests.client.scripted import ACTION, GOOD, Answer, error, scripted
from tests.converters.policies import environment, train
from tests.stack import ROOT, running_stack

ARTIFACT = ROOT / "artifacts/v0.2.0"
EPISODES, SEED, CARS = 8, 10_000, 4


@pytest.fixture
def client(gateway_url: str) -> Iterator[PolicyClient]:
    with PolicyClient(gateway_url, timeout=20.0) as client:
        yield client


def tracks(cars: int = CARS) -> DummyVecEnv:
    def monitored() -> Monitor:
        return Monitor(TrackEnv(max_steps=120))

    env = DummyVecEnv([monitored] * cars)
    env.seed(SEED)
    return env


def local_policy(artifact: Path) -> tuple[PPO, VecNormalize]:
    """The artifact as the Stable-Baselines3 model that it was, with what normalised for it."""
    env = VecNormalize.load(str(artifact / "preprocessor.pkl"), tracks())
    env.training = False
    env.norm_reward = False
    model = PPO(
        "MlpPolicy",
        env,
        policy_kwargs={
            "net_arch": {"pi": [64, 64], "vf": [64, 64]},
            "activation_fn": torch.nn.Tanh,
        },
        device="cpu",
    )
    weights = torch.load(artifact / "model.pt", weights_only=True)
    names = {"body.": "mlp_extractor.policy_net.", "mean.": "action_net.", "log_std": "log_std"}
    state = model.policy.state_dict()
    for name, tensor in weights.items():
        (start,) = (start for start in names if name.startswith(start))
        state[name.replace(start, names[start], 1)] = tensor
    model.policy.load_state_dict(state)
    return model, env


def test_evaluates_as_the_local_policy_does(client: PolicyClient) -> None:
    local, env = local_policy(ARTIFACT)
    evaluate = partial(
        evaluate_policy, n_eval_episodes=EPISODES, deterministic=True, return_episode_rewards=True
    )
    expected, lengths = evaluate(local, env)
    got, got_lengths = evaluate(RemotePolicy(client), tracks())
    assert lengths == got_lengths
    assert np.mean(got) == pytest.approx(np.mean(expected), rel=1e-6)
    assert np.mean(expected) > 20.0  # metres: it drove


def test_a_vectorised_environment_is_one_request() -> None:
    observations = tracks().reset()
    with scripted() as server, PolicyClient(server.url, timeout=20.0) as client:
        server.answers = [described(), Answer(content={**GOOD, "actions": [ACTION] * CARS})]
        policy = RemotePolicy(client)
        for _ in range(2):
            actions, _ = policy.predict(observations, deterministic=True)
            assert actions.shape == (CARS, 3)
    assert [len(request.get("observations", ())) for request in server.requests] == [0, CARS, CARS]


def described(
    version: str = "v0.2.0",
    layout: tuple[str, ...] = ("throttle", "brake", "steer"),
    low: tuple[float, ...] = (0.0, 0.0, -1.0),
    high: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> Answer:
    action = {"layout": layout, "low": low, "high": high}
    return Answer(content={"version": version, "modelCard": {"action": action}})


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (("throttle", "brake", "steer"), [0.5, 0.0, -0.25]),
        (("steer", "brake", "throttle"), [-0.25, 0.0, 0.5]),
        (("steer", "acceleration"), [-0.25, 0.5]),
        (("acceleration", "steer"), [0.5, -0.25]),
    ],
)
def test_actions_are_in_the_policy_s_own_layout(
    layout: tuple[str, ...], expected: list[float]
) -> None:
    bounds = {"low": [0.0] * len(layout), "high": [0.9] * len(layout)}
    with scripted() as server, PolicyClient(server.url, timeout=20.0) as client:
        server.answers = [described(layout=layout, **bounds), Answer()]
        actions, _ = RemotePolicy(client).predict(np.zeros(7), deterministic=True)
        assert actions.tolist() == expected
        server.answers = [Answer()]
        stated = RemotePolicy(client, layout=layout)
        assert stated.predict(np.zeros(7), deterministic=True)[0].tolist() == expected


def test_what_can_not_be_given_back_is_refused() -> None:
    with scripted() as server, PolicyClient(server.url, timeout=20.0) as client:
        server.answers = [
            described(layout=("steer", "acceleration"), low=(-1.0, -3.0), high=(1.0, 3.0))
        ]
        with pytest.raises(ValueError, match=r"acceleration of v0\.2\.0 is -3 to 3"):
            RemotePolicy(client).predict(np.zeros(7))
        with pytest.raises(ValueError, match=r"describes v0\.2\.0 and not v0\.1\.0"):
            RemotePolicy(client, version="v0.1.0").predict(np.zeros(7))
        server.answers = [Answer(content={"version": "v0.2.0", "modelCard": {"action": []}})]
        with pytest.raises(BadAnswer, match="does not describe"):
            RemotePolicy(client).predict(np.zeros(7))
        server.answers = [Answer()]
        with pytest.raises(ValueError, match="layout has 'gas': choose from throttle, "):
            RemotePolicy(client, layout=["gas"]).predict(np.zeros(7), deterministic=True)


@pytest.mark.parametrize("options", [{}, {"layout": ("throttle", "brake", "steer")}])
def test_one_evaluation_is_of_one_version(options: dict[str, Any]) -> None:
    with scripted() as server, PolicyClient(server.url, timeout=20.0) as client:
        server.answers = [*([] if options else [described()]), Answer()]
        policy = RemotePolicy(client, **options)
        policy.predict(np.zeros(7), deterministic=True)
        assert policy.version == "v0.2.0"
        server.answers = [Answer(content={**GOOD, "version": "v0.3.0"})]
        with pytest.raises(BadAnswer, match="version"):  # a proxy's cache, say
            policy.predict(np.zeros(7), deterministic=True)
        server.answers = [error(404, "MODEL_NOT_FOUND")]
        with pytest.raises(ModelNotFound):
            policy.predict(np.zeros(7), deterministic=True)
    assert [request["version"] for request in server.requests[-2:]] == ["v0.2.0", "v0.2.0"]


def test_a_policy_with_an_action_space_of_its_own_acts_as_the_local_one(tmp_path: Path) -> None:
    """`[steer, acceleration]`: what evaluates it in its environment gets the same return."""
    model, policy, _ = train(tmp_path, "PPO", actions=2, normalised=False)
    import_sb3(
        policy,
        "v1.0.0",
        tmp_path / "artifacts",
        fields=["speed", "steering", "sensors"],
        layout=["steer", "acceleration"],
        scale="clip",
    )
    export([tmp_path / "artifacts/v1.0.0"], tmp_path / "model_repository", ["onnx"])

    def cars() -> DummyVecEnv:
        env = DummyVecEnv([lambda: Monitor(environment(2))] * CARS)
        env.seed(SEED)
        return env

    evaluate = partial(evaluate_policy, n_eval_episodes=EPISODES, deterministic=True)
    expected, _ = evaluate(model, cars())
    with (
        running_stack(MODEL_REPOSITORY=str(tmp_path / "model_repository")) as stack,
        PolicyClient(stack.gateway_url, timeout=20.0) as client,
    ):
        remote = RemotePolicy(client)
        seen = cars().reset()
        actions, _ = remote.predict(seen, deterministic=True)
        local, _ = model.predict(seen, deterministic=True)
        np.testing.assert_allclose(actions, local, rtol=0, atol=1e-5)
        assert actions.dtype == local.dtype
        got, _ = evaluate(remote, cars())
    assert got == pytest.approx(expected, rel=1e-5)


def test_many_observations_have_an_action_each(client: PolicyClient) -> None:
    observations = tracks().reset()
    policy = RemotePolicy(client)
    actions, state = policy.predict(observations, deterministic=True)
    assert actions.shape == (CARS, 3)
    assert actions.dtype == np.float32
    assert state is None
    one, state = policy.predict(observations[0], None, np.array([True]), deterministic=True)
    np.testing.assert_array_equal(one, actions[0])
    assert state is None


def test_a_seed_repeats_a_sampled_drive(client: PolicyClient) -> None:
    observation = tracks(1).reset()
    first, again = (RemotePolicy(client, seed=5), RemotePolicy(client, seed=5))
    drawn = [first.predict(observation)[0] for _ in range(2)]
    np.testing.assert_array_equal(drawn, [again.predict(observation)[0] for _ in range(2)])
    assert not np.array_equal(*drawn)


def test_a_shape_that_is_none_of_the_policy_s_is_refused(client: PolicyClient) -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 2, 7\)"):
        RemotePolicy(client).predict(np.zeros((1, 2, 7)))
    with pytest.raises(ValueError, match=r"shape \(6,\) is neither \(7,\) nor \(n, 7\)"):
        RemotePolicy(client).predict(np.zeros(6))
