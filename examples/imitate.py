"""Train the policies of the example `memory`: `python -m examples.imitate -o DIR`.

The one that remembers is a RecurrentPPO of sb3-contrib, the other a PPO of as many layers. Both
learn from a teacher who sees the speed: they drive, and are told what it would have done (DAgger;
S. Ross, G. Gordon and D. Bagnell, AISTATS 2011).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor

from examples.memory import MemoryEnv, hide
from examples.track import TrackEnv
from examples.train import Floats, deterministic, evaluate, save

ROUNDS = 20  # of driving, then learning from all drives so far
CARS, STEPS = 16, 400  # that drive in a round; together 128,000 steps
UPDATES, BATCH = 60, 32  # of a round; drives for an update
HIDDEN = 64
LAYERS = {"activation_fn": torch.nn.Tanh, "log_std_init": -2.0}


class Teacher:
    """A policy that `examples.train` wrote into a folder."""

    def __init__(self, folder: Path) -> None:
        """Load it."""
        self._model = PPO.load(folder / "policy.zip", device="cpu")
        track = DummyVecEnv([TrackEnv])
        self._normalize = VecNormalize.load(str(folder / "vecnormalize.pkl"), track)

    def act(self, observations: Floats) -> Floats:
        """Return what it does where a car sees this, (n, 7) → (n, 3)."""
        seen = self._normalize.normalize_obs(observations)
        return np.asarray(self._model.predict(seen, deterministic=True)[0], dtype=np.float32)


def imitate(teacher: Teacher, seed: int, *, memory: bool) -> tuple[BaseAlgorithm, VecNormalize]:
    """Train a policy to do what the teacher does; the same seed gives the same policy.

    Without `memory` a dense layer is in the place of the LSTM.
    """
    torch.set_num_threads(1)
    env = VecNormalize(DummyVecEnv([MemoryEnv]), training=False)
    kind: Any
    layers: dict[str, Any]
    kind, name, layers = PPO, "MlpPolicy", {"net_arch": {"pi": [HIDDEN, 64], "vf": []}}
    if memory:
        kind, name = RecurrentPPO, "MlpLstmPolicy"
        layers = {
            "net_arch": {"pi": [64], "vf": []},  # the value network is not trained: it is small
            "lstm_hidden_size": HIDDEN,
            "enable_critic_lstm": False,
        }
    model: Any = kind(name, env, policy_kwargs=LAYERS | layers, seed=seed, device="cpu")
    optimizer = torch.optim.Adam(model.policy.parameters())
    draw = np.random.default_rng(seed)
    drives: list[tuple[Floats, Floats]] = []
    for index in range(ROUNDS):
        starts = draw.integers(2**31, size=CARS)
        drives.append(_drive(starts, teacher, model if drives else None, env))
        if index == 0:
            env.obs_rms.update(drives[0][0].reshape(-1, 6))
        seen, done = (np.concatenate(parts) for parts in zip(*drives, strict=True))
        seen = np.asarray(env.normalize_obs(seen))
        model.policy.set_training_mode(True)
        for update in range(UPDATES):
            left = 1.0 - (index + update / UPDATES) / ROUNDS
            optimizer.param_groups[0]["lr"] = 5e-3 * left
            some = draw.choice(len(seen), min(BATCH, len(seen)), replace=False)
            loss = _loss(model, torch.from_numpy(seen[some]), torch.from_numpy(done[some]))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.policy.parameters(), 0.5)
            optimizer.step()
        click.echo(f"round {index + 1} of {ROUNDS}: loss {loss.item():.3f}", err=True)
    return model, env


def _drive(
    starts: NDArray[Any], teacher: Teacher, model: Any, env: VecNormalize
) -> tuple[Floats, Floats]:
    """Drive from each start: what was seen, (cars, steps, 6), what the teacher would have done.

    A car that leaves the track is put back. Without a model the teacher drives.
    """
    tracks = [TrackEnv(put_back=True, max_steps=None) for _ in starts]
    observations = [one.reset(seed=int(at))[0] for one, at in zip(tracks, starts, strict=True)]
    seen, done, state = [], [], None
    for step in range(STEPS):
        whole = np.stack(observations)
        seen.append(hide(whole))
        done.append(teacher.act(whole))
        actions = done[-1]
        if model is not None:
            begin = np.full(len(tracks), step == 0)
            hidden = env.normalize_obs(seen[-1])
            actions, state = model.predict(hidden, state, begin, deterministic=True)
        observations = [one.step(do)[0] for one, do in zip(tracks, actions, strict=True)]
    return np.stack(seen, axis=1), np.stack(done, axis=1)


def _loss(model: Any, seen: Tensor, done: Tensor) -> Tensor:
    """Return how unlikely the teacher's actions `done` are, (n, steps, 3): n whole drives."""
    more = []
    if isinstance(model, RecurrentPPO):
        empty = (torch.zeros(1, len(seen), HIDDEN),) * 2
        more = [RNNStates(empty, empty), torch.zeros(seen.shape[:2]).flatten()]
    actions = done.flatten(0, 1)
    _, likelihood, _ = model.policy.evaluate_actions(seen.flatten(0, 1), actions, *more)
    loss: Tensor = -likelihood.mean()
    return loss


@click.command()
@click.option("--memory/--no-memory", default=True, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--teacher",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("runs/v0.2.0"),
    show_default=True,
    help="Folder of a policy that sees the speed, as `examples.train` writes it.",
)
@click.option(
    "--output", "-o", type=click.Path(file_okay=False, path_type=Path), required=True, metavar="DIR"
)
def main(memory: bool, seed: int, teacher: Path, output: Path) -> None:
    """Train a policy that does not see its speed, evaluate it, and write both into DIR.

    DIR gets what it gets of `examples.train`.
    """
    model, normalize = imitate(Teacher(teacher), seed, memory=memory)
    metrics, observations = evaluate(deterministic(model, normalize), MemoryEnv)
    metrics |= {"training_steps": ROUNDS * CARS * STEPS, "seed": seed}
    save(output, model, normalize, metrics, observations)


if __name__ == "__main__":
    main()
