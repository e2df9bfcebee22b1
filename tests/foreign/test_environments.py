"""Policies for environments of other projects drive through the gateway as they do in process."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Discrete

from carlarl_client import PolicyClient
from carlarl_client.policy import RemotePolicy
from tests import page
from tests.foreign.environments import FOREIGN, Foreign
from tests.stack import running_stack

SEEDS = range(5)


@dataclass(frozen=True)
class Episode:
    """The actions of an episode, and the sum of its rewards."""

    actions: list[Any]
    total: float


def drive(foreign: Foreign, predict: Callable[[Any], Any], seed: int) -> Episode:
    """Drive one episode of an environment of its own."""
    env = foreign.make()
    observation, _ = env.reset(seed=seed)
    actions, total = [], 0.0
    for _ in range(foreign.longest):
        action = predict(observation)
        observation, reward, ended, cut, _ = env.step(action)
        actions.append(action)
        total += float(reward)
        if ended or cut:
            break
    env.close()
    return Episode(actions, total)


@pytest.mark.foreign
@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")  # of Box2D, which falls by it
@pytest.mark.parametrize("name", FOREIGN)
def test_drives_as_in_process(
    name: str, tmp_path: Path, carlarl: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    foreign = FOREIGN[name]
    foreign.train(tmp_path)
    artifacts, repository = str(tmp_path / "artifacts"), str(tmp_path / "model_repository")
    statistics = str(tmp_path / "vecnormalize.pkl") if foreign.normalised else "none"
    for command in (
        ("import-sb3", str(tmp_path / "policy.zip"), "--version", "v1.0.0", "--vecnormalize")
        + (statistics, "--artifacts", artifacts, *foreign.flags),
        ("export", "--artifacts", artifacts, "--repository", repository),
    ):
        done = carlarl(*command)
        assert done.returncode == 0, done.stderr
    local = foreign.predictor(tmp_path)
    with running_stack("--repository", repository) as stack, PolicyClient(stack.gateway_url) as ask:
        remote = RemotePolicy(ask)

        def asked(observation: Any) -> Any:
            return remote.predict(observation, deterministic=True)[0]

        pairs = [(drive(foreign, local, seed), drive(foreign, asked, seed)) for seed in SEEDS]
    furthest = 0.0
    for own, served in pairs:
        assert len(own.actions) == len(served.actions)
        gaps = np.abs(np.subtract(own.actions, served.actions, dtype=np.float64))
        furthest = max(furthest, float(gaps.max()))
        assert own.total == pytest.approx(served.total, abs=1e-4)
    assert furthest <= 1e-5
    steps = sum(len(own.actions) for own, _ in pairs)
    returns = [f"{np.mean([one.total for one in side]):.3f}" for side in zip(*pairs, strict=True)]
    space: Any = foreign.make().action_space
    page.add(
        "environments",
        f"`{foreign.name}`",
        foreign.sees,
        f"Discrete, {space.n}" if isinstance(space, Discrete) else f"Box, {space.shape[0]}",
        f"{foreign.algorithm.__name__}, {foreign.policy}",
        f"{foreign.steps:,}",
        f"{steps:,}",
        *returns,
        f"{furthest:.1g}",
    )
