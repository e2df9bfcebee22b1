"""The served policy in the place of a Stable-Baselines3 model."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import numpy as np

from carlarl_client._answers import RANGES
from carlarl_client._spaces import Described, Space, shape_of
from carlarl_client.client import PolicyClient
from carlarl_client.errors import BadAnswer, Unsupported
from carlarl_client.types import Action


class RemotePolicy:
    """Predicts as a model of Stable-Baselines3 does, for whatever only needs its `predict`.

    `evaluate_policy(RemotePolicy(client), env)` drives `env` by the served policy. The environment
    gives raw observations: what normalises them in training (`VecNormalize`) is part of the served
    policy. Where the policy takes a dictionary of vectors, such as speed, steering and sensors, the
    environment may give them in one, in that order. Actions are in the policy's own space. All
    answers are of one version, also where another is promoted meanwhile.

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
                `steer`, or `steer` and `acceleration`. Where absent the service is asked, which
                describes only its active version.
        """
        self.client = client
        self._seed = seed
        self._layout = layout
        self._described: Described | None = None
        self._metadata: dict[str, Any] = {}
        self.version = version

    def predict(
        self,
        observation: Any,
        state: tuple[Any, ...] | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Any, tuple[Any, ...] | None]:
        """Return the actions for observations; all of a vectorised environment's are one request.

        Args:
            observation: of the policy's space, or arrays with n of them, at most 1000.
            state: what the call before returned, for as many observations; None where all start an
                episode.
            episode_start: whether an episode starts, for each observation: n bools, or one for all.
                None where those with a state go on.
            deterministic: ask for the policy's mean action; else for a sampled one.

        Returns:
            Actions as the policy's action space has them, an array of its shape or of (n, *shape),
            and what the policy remembers: a token for each observation, None where it has no
            memory.

        Raises:
            ValueError: the observation has another shape, `state` or `episode_start` another
                length, or what the policy's actions are can't be known.
            PolicyError: the service could not answer; `ModelNotFound` where it no longer serves the
                version that answered first.
        """
        if self._layout is None and self._described is None:
            self._learn()
        space = self._described.observation if self._described is not None else {}
        rows, alone = observations(observation, space or driving(observation))
        asked: dict[str, Any] = {"deterministic": deterministic}
        if self._seed is not None and not deterministic:
            asked["seed"], self._seed = self._seed, (self._seed + 1) % 2**63
        asked["version"] = self.version
        asked["states"] = states(state, episode_start, len(rows))
        try:
            answer = self.client.predict(rows, policy_actions=self._layout is None, **asked)
        except Unsupported:
            card = self._metadata.get("modelCard") or {}
            if self._layout is not None or "action" not in card:
                raise
            # It was exported by an older release, and does not tell its own actions.
            self._layout = layout_of(self._metadata)
            answer = self.client.predict(rows, **asked)
        self.version = answer.version
        if self._layout is not None:
            actions = np.array([own(one, self._layout) for one in answer.actions], np.float32)
        else:
            assert self._described is not None
            assert self._described.action is not None
            space = self._described.action
            actions = np.array(answer.policy_actions, DTYPES.get(space["type"]) or space["dtype"])
        return (actions.squeeze(axis=0) if alone else actions), answer.states

    def _learn(self) -> None:
        """Ask what the active version is. Raises ValueError where that is not `version`."""
        self._metadata = self.client.metadata()
        told = Described.by(self._metadata)
        if self.version not in (None, told.version):
            raise ValueError(
                f"the service describes {told.version} and not {self.version}: promote that, or "
                "give its layout if it drives"
            )
        if told.action is None:  # an older gateway
            self._layout = layout_of(self._metadata)
        self._described, self.version = told, told.version


DTYPES = {"Discrete": np.int64, "MultiDiscrete": np.int64, "MultiBinary": np.float32}
"""What Stable-Baselines3 gives for an action space; for a Box it is the Box's own."""


def states(state: Any, episode_start: Any, rows: int) -> list[Any] | None:
    """Return the token that is sent for each of the rows; None where all start an episode.

    Raises ValueError for other lengths.
    """
    tokens = [None] * rows if state is None else list(state)
    starts = np.ravel(False if episode_start is None else episode_start).tolist()
    starts = starts * rows if len(starts) == 1 else starts
    for name, each in {"state": tokens, "episode_start": starts}.items():
        if len(each) != rows:
            raise ValueError(f"{name} has {len(each)} elements for {rows} observations")
    sent = [None if start else token for token, start in zip(tokens, starts)]
    return None if sent.count(None) == rows else sent


def driving(observation: Any) -> Space:
    """Return the space of speed, steering and sensors, as many as an array of them has."""
    sensors = max(0, (np.shape(observation) or (0,))[-1] - 2)
    shapes: dict[str, list[int]] = {"speed": [], "steering": [], "sensors": [sensors]}
    parts = {name: {"type": "Box", "shape": shape} for name, shape in shapes.items()}
    return {"type": "Dict", "subspaces": parts}


def observations(value: Any, space: Space) -> tuple[list[Any], bool]:
    """Return the observations in a value, and whether it is a single one.

    Raises ValueError where it is neither an observation nor arrays with several.
    """
    if space["type"] == "Dict":
        parts = space["subspaces"]
        given = value if isinstance(value, Mapping) else _cut(value, parts)
        if set(given) != set(parts):
            raise ValueError(f"{', '.join(given)}: the policy takes {', '.join(parts)}")
        found = [observations(given[name], part) for name, part in parts.items()]
        rows: list[Any] = [dict(zip(parts, row)) for row in zip(*(each for each, _ in found))]
    elif space["type"] == "Tuple":
        found = [observations(one, part) for one, part in zip(value, space["subspaces"])]
        rows = [list(row) for row in zip(*(each for each, _ in found))]
    else:
        array, shape = np.asarray(value), tuple(shape_of(space))
        alone = array.shape == shape
        array = array[None] if alone else array
        if array.shape[1:] != shape or not len(array) or array.ndim == 0:
            raise ValueError(f"shape {np.shape(value)} is neither {shape} nor (n, *{shape})")
        return list(array), alone
    counts = {(len(each), alone) for each, alone in found}
    if len(counts) != 1:
        raise ValueError("the parts of an observation differ in their number of rows")
    return rows, found[0][1]


def _cut(value: Any, parts: Mapping[str, Space]) -> dict[str, Any]:
    """Cut vectors of all parts, one behind the other, into these."""
    array = np.asarray(value)
    shapes = [shape_of(part) for part in parts.values()]
    sizes = [int(np.prod(shape)) for shape in shapes]
    if array.ndim not in (1, 2) or array.shape[-1] != sum(sizes) or not len(array):
        width = sum(sizes)
        raise ValueError(f"shape {array.shape} is neither ({width},) nor (n, {width})")
    cut = np.split(array, np.cumsum(sizes)[:-1], axis=-1)
    lead = array.shape[:-1]
    return {name: one.reshape((*lead, *shape)) for name, one, shape in zip(parts, cut, shapes)}


def layout_of(metadata: dict[str, Any]) -> list[str]:
    """Read the layout of the active version's actions from the card in `/metadata`.

    Raises ValueError where the actions have other bounds than the controls, which then do not say
    what the policy's own action was.
    """
    try:
        active, action = str(metadata["version"]), metadata["modelCard"]["action"]
        bounds = {
            str(name): (float(low), float(high))
            for name, low, high in zip(action["layout"], action["low"], action["high"])
        }
    except (KeyError, TypeError, ValueError) as error:
        raise BadAnswer(f"the service does not describe its policy: {error!r}") from error
    for name, (low, high) in bounds.items():
        least, most = RANGES.get(name, (-1.0, 1.0))
        if low < least or high > most:
            raise ValueError(
                f"{name} of {active} is {low:g} to {high:g}, and the service answers {least:g} to "
                f"{most:g}: give its layout to drive by what it answers"
            )
    return list(bounds)


def own(action: Action, layout: Sequence[str]) -> list[float]:
    """Return an action in the policy's own layout. Raises ValueError for a name that is none."""
    elements = {**action._asdict(), "acceleration": action.throttle - action.brake}
    try:
        return [elements[name] for name in layout]
    except KeyError as error:
        raise ValueError(f"layout has {error}: choose from {', '.join(elements)}") from None
