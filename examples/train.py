"""Train an example policy with PPO: `python -m examples.train --preset v0.2.0 -o DIR`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import gymnasium
import numpy as np
import torch
import yaml
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from examples.sight import SightEnv
from examples.track import DT, TrackEnv

Floats = NDArray[np.float32]
Policy = Callable[[Any, bool], Floats]

# environment steps
PRESETS = {"v0.1.0": 200_000, "v0.2.0": 800_000, "steps": 400_000, "sight": 400_000}
TABLE = Path(__file__).parent / "steps.yaml"  # as `carlarl import-sb3 --table` takes it
EPISODE = 300  # steps: short, so that many random starts teach it to recover from anywhere
EVALUATION_SEED = 10_000  # its starts are none that training drew
LAP_LIMIT = 2400  # steps: a lap that takes two minutes has failed
RECORDED = 256  # observations


class MirrorEnv(TrackEnv):
    """The track seen in a mirror: left is right, in what is observed and in what is done."""

    def step(self, action: Floats) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Drive for one step with the steer turned round."""
        return super().step(action * np.array([1, 1, -1], dtype=np.float32))

    def _observation(self) -> Any:
        observation = super()._observation()
        if isinstance(observation, dict):
            return observation | {"road": observation["road"][:, ::-1]}
        speed, steering, *sensors = observation
        return np.array([speed, -steering, *reversed(sensors)], dtype=np.float32)


class MirrorSightEnv(MirrorEnv, SightEnv):
    """The mirrored track as it is seen from above."""


class TableEnv(gymnasium.ActionWrapper[Floats, np.int64, Floats]):
    """The track for a driver that has one action for each row of `table`, shape (n, 3)."""

    def __init__(self, env: TrackEnv, table: Floats) -> None:
        """Let an action be the index of a row; see `TrackEnv` for what a row says."""
        super().__init__(env)
        self.table = table
        self.action_space = spaces.Discrete(len(table))

    def action(self, action: np.int64) -> Floats:
        """Return the row."""
        row: Floats = self.table[action]
        return row


def read_table(path: Path = TABLE) -> Floats:
    """Return the controls of a file, shape (n, 3); what a row does not name is 0."""
    rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    names = ("throttle", "brake", "steer")
    return np.array([[row.get(name, 0.0) for name in names] for row in rows], dtype=np.float32)


def train(
    steps: int,
    seed: int,
    *,
    table: Floats | None = None,
    sight: bool = False,
    progress_bar: bool = False,
) -> tuple[PPO, VecNormalize]:
    """Train a policy for so many environment steps; the same seed gives the same policy.

    With `table`, shape (n, 3), its action is the index of a row, else throttle, brake and steer.
    With `sight` it sees what `SightEnv` shows, and has a convolutional network.
    """

    def make(kind: type[TrackEnv]) -> gymnasium.Env[Any, Any]:
        track = kind(max_steps=EPISODE)
        return track if table is None else TableEnv(track, table)

    torch.set_num_threads(2 if sight else 1)  # perceptrons are too small to share out
    # Most bends go left; half of the cars drive the mirror image, so that right is learnt as well.
    kinds = [SightEnv, MirrorSightEnv] if sight else [TrackEnv, MirrorEnv]
    tracks = DummyVecEnv([partial(make, kind) for kind in kinds * 4])
    tracks.seed(seed)
    env = VecNormalize(tracks, norm_obs_keys=["speed"] if sight else None)
    rate, batch_size, epochs = (5e-4, 256, 4) if sight else (1e-3, 512, 10)
    model = PPO(
        "MultiInputPolicy" if sight else "MlpPolicy",
        env,
        learning_rate=lambda remaining: rate * remaining,
        n_steps=512,
        batch_size=batch_size,
        n_epochs=epochs,
        gamma=0.99,
        policy_kwargs={
            "net_arch": {"pi": [64, 64], "vf": [64, 64]},
            "activation_fn": torch.nn.Tanh,
            "log_std_init": -0.5,  # of continuous actions alone
            **({"features_extractor_kwargs": {"cnn_output_dim": 64}} if sight else {}),
        },
        seed=seed,
        device="cpu",
    )
    model.learn(steps, progress_bar=progress_bar)
    env.training = False
    return model, env


def deterministic(
    model: BaseAlgorithm, normalize: VecNormalize, table: Floats | None = None
) -> Policy:
    """Return the policy without noise: raw observation, is it an episode's first → control, (3,).

    One with a memory remembers what it was asked before in the episode.
    """
    state = None

    def act(observation: Any, start: bool) -> Floats:
        nonlocal state
        seen, begin = normalize.normalize_obs(observation), np.array([start])
        action, state = model.predict(seen, state, begin, deterministic=True)
        return np.asarray(action, dtype=np.float32) if table is None else table[action]

    return act


def evaluate(
    policy: Policy, kind: type[TrackEnv] = TrackEnv, laps: int = 20, seed: int = EVALUATION_SEED
) -> tuple[dict[str, Any], list[Any]]:
    """Attempt one lap from each of `laps` seeded random starts, until it ends or leaves the track.

    Returns:
        The metrics, and at most `RECORDED` observations spread evenly over all laps.
    """
    env = kind(max_steps=LAP_LIMIT)
    observations, speeds, lap_times, returns, driven, off_track = [], [], [], [], [], 0
    for lap in range(laps):
        observation, info = env.reset(seed=seed + lap)
        total, done, start = 0.0, False, True
        while not done:
            observations.append(observation)
            observation, reward, terminated, truncated, info = env.step(policy(observation, start))
            speeds.append(info["speed"])
            total += reward
            done, start = terminated or truncated or bool(info["lap_times"]), False
        driven.append(info["progress"])
        returns.append(total)
        lap_times.extend(info["lap_times"])
        off_track += info["off_track"]
    metrics = {
        "laps_completed": len(lap_times),
        "laps_attempted": laps,
        "success_rate": len(lap_times) / laps,
        "off_track_events": off_track,
        "mean_distance_m": round(float(np.mean(driven)), 1),
        "mean_lap_time_s": round(float(np.mean(lap_times)), 3) if lap_times else None,
        "mean_speed_kmh": round(float(np.mean(speeds)), 2),
        "mean_return": round(float(np.mean(returns)), 2),
        "evaluation_episodes": laps,
        "evaluation_seconds": round(len(speeds) * DT, 2),
    }
    chosen = np.linspace(0, len(observations) - 1, min(RECORDED, len(observations))).astype(int)
    return metrics, [observations[index] for index in chosen]


def save(
    output: Path,
    model: BaseAlgorithm,
    normalize: VecNormalize,
    metrics: dict[str, Any],
    observations: list[Any],
) -> None:
    """Write a policy, and what `evaluate` told of it, into a folder, and tell the metrics."""
    output.mkdir(parents=True, exist_ok=True)
    model.save(output / "policy.zip")
    normalize.save(str(output / "vecnormalize.pkl"))
    if isinstance(observations[0], dict):
        parts = {key: np.stack([one[key] for one in observations]) for key in observations[0]}
        np.savez_compressed(output / "observations.npz", **parts)
    else:
        np.save(output / "observations.npy", np.stack(observations))
    # JSON scalars are YAML scalars.
    lines = [f"{name}: {json.dumps(value)}\n" for name, value in metrics.items()]
    (output / "metrics.yaml").write_text("".join(lines), encoding="utf-8")
    click.echo("".join(lines), nl=False)


@click.command()
@click.option("--preset", type=click.Choice(list(PRESETS)), help="A published policy.")
@click.option("--steps", type=click.IntRange(min=1), help="Environment steps, not the preset's.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--output", "-o", type=click.Path(file_okay=False, path_type=Path), required=True, metavar="DIR"
)
def main(preset: str | None, steps: int | None, seed: int, output: Path) -> None:
    """Train a driving policy, evaluate it, and write both into DIR.

    DIR gets policy.zip (Stable-Baselines3), vecnormalize.pkl (observation statistics), metrics.yaml
    (measured) and observations.npy (float32, shape (n, 7), n at most 256), which for `sight` is
    observations.npz (an array for each part).

    \b
    python -m examples.train --preset v0.1.0 -o runs/v0.1.0   # short: it leaves the track
    python -m examples.train --preset v0.2.0 -o runs/v0.2.0   # long: it completes every lap
    python -m examples.train --preset steps -o runs/steps     # its actions are rows of steps.yaml
    python -m examples.train --preset sight -o runs/sight     # it sees the road from above
    """
    if preset is None and steps is None:
        raise click.UsageError("Give --preset, --steps or both.")
    table = read_table() if preset == "steps" else None
    sight = preset == "sight"
    steps = steps or PRESETS[str(preset)]
    model, normalize = train(steps, seed, table=table, sight=sight, progress_bar=True)
    policy = deterministic(model, normalize, table)
    metrics, observations = evaluate(policy, SightEnv if sight else TrackEnv)
    metrics |= {"training_steps": model.num_timesteps, "seed": seed}
    save(output, model, normalize, metrics, observations)


if __name__ == "__main__":
    main()
