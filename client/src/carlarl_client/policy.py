"""The served policy in the place of a Stable-Baselines3 model."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np

from carlarl_client._answers import RANGES
from carlarl_client.client import PolicyClient
from carlarl_client.errors import BadAnswer
from carlarl_client.types import Action


class RemotePolicy:
    """Predicts as a model of Stable-Baselines3 does, for whatever only needs its `predict`.

    `evaluate_policy(RemotePolicy(client), env)` drives `env` by the served policy. The environment
    gives raw observations, `[speed, steering, sensors…]` as in `carlarl_client.Observation`: what
    normalises them in training (`VecNormalize`) is part of the served policy. Actions are in the
    policy's own space. All answers are of one version, also where another is promoted meanwhile.

    Attributes:
        client: that is asked.
        version: of the policy; None until the service was asked, where it was not given.
    """

    def __init__(
        self,
        client: PolicyClient,
        *,
        version: str | None = None,
        seed: int | None = None,
        layout: Sequence[str] | None = None,
    ) -> None:
        """Take who answers.

        Args:
            client: to ask.
            version: of the policy; that which is active at the first call where absent.
            seed: makes sampled actions repeatable: call i asks with seed + i.
            layout: what the elements of the policy's actions are, in order: `throttle`, `brake` and
                `steer`, or `steer` and `acceleration`. The service is asked where absent, which
                describes only its active version.
        """
        self.client = client
        self._seed = seed
        self._layout = layout
        self.version = version

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
            Actions as the policy's action space has them, float32, shape (actions,) or (n,
            actions), and `state`.

        Raises:
            ValueError: the observation has another shape, or what the policy's actions are can't be
                known.
            PolicyError: the service could not answer; `ModelNotFound` where it no longer serves the
                version that answered first.
        """
        rows = np.asarray(observation)
        if rows.ndim not in (1, 2) or rows.shape[-1] < 2 or not len(rows):
            raise ValueError(f"shape {rows.shape} is neither (features,) nor (n, features)")
        if self._layout is None:
            self.version, self._layout = described(self.client.metadata(), self.version)
        seed = None
        if self._seed is not None and not deterministic:
            seed, self._seed = self._seed, (self._seed + 1) % 2**63
        answer = self.client.predict(
            [
                {"speed": speed, "steering": steering, "sensors": sensors}
                for speed, steering, *sensors in np.atleast_2d(rows).tolist()
            ],
            deterministic=deterministic,
            seed=seed,
            version=self.version,
        )
        self.version = answer.version
        actions = np.array([own(one, self._layout) for one in answer.actions], dtype=np.float32)
        return (actions[0] if rows.ndim == 1 else actions), state


def described(metadata: dict[str, Any], version: str | None) -> tuple[str, list[str]]:
    """Read the active version and its action's layout from `/metadata`.

    Raises ValueError where that is not `version`, or where its actions have other bounds than the
    controls, which then do not say what the policy's own action was.
    """
    try:
        active, action = str(metadata["version"]), metadata["modelCard"]["action"]
        bounds = {
            str(name): (float(low), float(high))
            for name, low, high in zip(action["layout"], action["low"], action["high"])
        }
    except (KeyError, TypeError, ValueError) as error:
        raise BadAnswer(f"the service does not describe its policy: {error!r}") from error
    if version not in (None, active):
        raise ValueError(f"the service describes {active} and not {version}: give its layout")
    for name, (low, high) in bounds.items():
        least, most = RANGES.get(name, (-1.0, 1.0))
        if low < least or high > most:
            raise ValueError(
                f"{name} of {active} is {low:g} to {high:g}, and the service answers {least:g} to "
                f"{most:g}: give its layout to drive by what it answers"
            )
    return active, list(bounds)


def own(action: Action, layout: Sequence[str]) -> list[float]:
    """Give an action in the policy's own layout. Raises ValueError for a name that is none."""
    elements = {**action._asdict(), "acceleration": action.throttle - action.brake}
    try:
        return [elements[name] for name in layout]
    except KeyError as error:
        raise ValueError(f"layout has {error}: choose from {', '.join(elements)}") from None
