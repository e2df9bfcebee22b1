"""The served policy in the place of a Stable-Baselines3 model."""

from __future__ import annotations

from typing import Any

import numpy as np

from carlarl_client.client import PolicyClient


class RemotePolicy:
    """Predicts as a model of Stable-Baselines3 does, for whatever only needs its `predict`.

    `evaluate_policy(RemotePolicy(client), env)` drives `env` by the served policy. The environment
    gives raw observations, `[speed, steering, sensors…]` as in `carlarl_client.Observation`: what
    normalises them in training (`VecNormalize`) is part of the served policy.
    """

    def __init__(
        self, client: PolicyClient, *, version: str | None = None, seed: int | None = None
    ) -> None:
        """Take who answers.

        Args:
            client: to ask.
            version: of the policy; the active one where absent.
            seed: makes sampled actions repeatable: call i asks with seed + i.
        """
        self._client = client
        self._version = version
        self._seed = seed

    def predict(
        self,
        observation: Any,
        state: tuple[Any, ...] | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Any, tuple[Any, ...] | None]:
        """Give the actions for observations; all of a vectorised environment's are one request.

        Args:
            observation: shape (features,), or (n, features) with n at most 1000.
            state: given back as it came; the served policies have none.
            episode_start: not looked at, for the same reason.
            deterministic: ask for the policy's mean action; else for a sampled one.

        Returns:
            Actions `[throttle, brake, steer]`, float32, shape (3,) or (n, 3), and `state`.

        Raises:
            ValueError: the observation has another shape.
            PolicyError: the service could not answer.
        """
        rows = np.asarray(observation)
        if rows.ndim not in (1, 2) or rows.shape[-1] < 2 or not len(rows):
            raise ValueError(f"shape {rows.shape} is neither (features,) nor (n, features)")
        seed = None
        if self._seed is not None and not deterministic:
            seed, self._seed = self._seed, (self._seed + 1) % 2**63
        answer = self._client.predict(
            [
                {"speed": speed, "steering": steering, "sensors": sensors}
                for speed, steering, *sensors in np.atleast_2d(rows).tolist()
            ],
            deterministic=deterministic,
            seed=seed,
            version=self._version,
        )
        actions = np.array(answer.actions, dtype=np.float32)
        return (actions[0] if rows.ndim == 1 else actions), state
