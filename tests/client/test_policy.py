"""The served policy in the place of a Stable-Baselines3 model, on the same seeds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from carlarl_client import PolicyClient, ValidationFailed
from carlarl_client.policy import RemotePolicy
from examples.track import TrackEnv
from tests.client.scripted import ACTION, GOOD, Answer, scripted
from tests.stack import ROOT

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
        server.answers = [Answer(content={**GOOD, "actions": [ACTION] * CARS})]
        actions, _ = RemotePolicy(client).predict(observations, deterministic=True)
    assert actions.shape == (CARS, 3)
    (request,) = server.requests
    assert len(request["observations"]) == CARS


def test_many_observations_have_an_action_each(client: PolicyClient) -> None:
    observations = tracks().reset()
    policy = RemotePolicy(client)
    actions, state = policy.predict(observations, deterministic=True)
    assert actions.shape == (CARS, 3)
    assert actions.dtype == np.float32
    assert state is None
    one, kept = policy.predict(observations[0], state=(1,), deterministic=True)
    np.testing.assert_array_equal(one, actions[0])
    assert kept == (1,)


def test_a_seed_repeats_a_sampled_drive(client: PolicyClient) -> None:
    observation = tracks(1).reset()
    first, again = (RemotePolicy(client, seed=5), RemotePolicy(client, seed=5))
    drawn = [first.predict(observation)[0] for _ in range(2)]
    np.testing.assert_array_equal(drawn, [again.predict(observation)[0] for _ in range(2)])
    assert not np.array_equal(*drawn)


def test_a_shape_that_is_none_of_the_policy_s_is_refused(client: PolicyClient) -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 2, 7\)"):
        RemotePolicy(client).predict(np.zeros((1, 2, 7)))
    with pytest.raises(ValidationFailed, match="takes 5 sensors, 4 came"):
        RemotePolicy(client).predict(np.zeros(6))
