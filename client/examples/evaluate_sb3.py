"""Evaluate the served policy with Stable-Baselines3's own tool, on the example track.

Run it in the root of CarlaRL's repository: `python client/examples/evaluate_sb3.py`.
"""

import sys
from typing import Any

import gymnasium
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from carlarl_client import PolicyClient
from carlarl_client.policy import RemotePolicy


def main(url: str, **options: Any) -> None:
    """Print the mean and the spread of the return of eight episodes, four cars at a time."""

    def track() -> Any:
        return gymnasium.make("examples.track:CarlaRL/Track-v0", **options)

    env = make_vec_env(track, n_envs=4, seed=0)
    with PolicyClient(url, timeout=10.0) as client:
        policy = RemotePolicy(client)
        mean, spread = evaluate_policy(policy, env, n_eval_episodes=8, deterministic=True)
    print(f"return {mean:.1f} ± {spread:.1f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080")
