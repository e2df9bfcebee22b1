"""A Gymnasium environment that the user names: made, and its spaces in the card's form."""

import re
from pathlib import Path
from typing import Any

import gymnasium

from converters.artifact.card import ArtifactError
from converters.importers import interface, sb3_spaces, user_code
from policy_spec.spaces import Dict, LeafSpace, Space, Tuple

_REGISTERED = re.compile(r"([^:]+:)?[^:]+-v\d+")


def make(env: str, arguments: Any) -> Any:
    """Return the environment that `env` names.

    That is a class or a function `module:attribute`, called with `arguments`, or a name that
    `gymnasium.make` takes, like `CartPole-v1` or `module:Id-v0`. A function may return another one
    that makes the environment. Raises ArtifactError; the user's code runs.
    """
    given = user_code.keywords("--env-arguments", arguments)
    if _REGISTERED.fullmatch(env):
        with user_code.running(f"--env {env}"):
            if ":" in env:
                user_code.import_module(env.partition(":")[0])
            return gymnasium.make(env, **given)
    found = user_code.load("--env ", env)
    with user_code.running(f"--env {env}: it can't be made"):
        made = found(**given) if callable(found) else found
        made = made() if callable(made) and not hasattr(made, "observation_space") else made
    if not hasattr(made, "observation_space") or not hasattr(made, "action_space"):
        raise ArtifactError(
            f"--env {env}: it gives a {type(made).__name__}, no environment with an "
            "observation_space and an action_space"
        )
    return made


def spaces_of(env: str, made: Any) -> tuple[Space, LeafSpace]:
    """Return the observation and the action space of an environment; raise ArtifactError."""
    found = []
    for name in ("observation_space", "action_space"):
        try:
            space = sb3_spaces.rebuild(getattr(made, name))
        except ValueError as error:
            raise ArtifactError(f"--env {env}: {name}: {error}") from None
        form = sb3_spaces.card_form(space, starts=True)
        found.append(interface.read_space(Path(f"--env {env}"), form, name))
    observation, action = found
    if isinstance(action, Dict | Tuple):
        raise ArtifactError(
            f"--env {env}: its action is a {type(action).__name__}, and a policy's action must be "
            "a Box, Discrete, MultiDiscrete or MultiBinary, without parts"
        )
    return observation, action
