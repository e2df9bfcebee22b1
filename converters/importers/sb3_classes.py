"""The classes that a zip names: of Stable-Baselines3, of torch, or of a module the user trusts."""

import operator
from collections.abc import Collection
from types import FunctionType
from typing import Any

from sb3_contrib.ars import policies as ars
from sb3_contrib.common.maskable import policies as maskable
from sb3_contrib.common.recurrent import policies as recurrent
from sb3_contrib.crossq import policies as crossq
from sb3_contrib.qrdqn import policies as qrdqn
from sb3_contrib.tqc import policies as tqc
from stable_baselines3.common import policies, torch_layers
from stable_baselines3.dqn import policies as dqn
from stable_baselines3.sac import policies as sac
from stable_baselines3.td3 import policies as td3
from torch import nn

from converters.artifact.pickles import Foreign
from converters.importers import files, user_code

BASES: dict[type[Any], str] = {
    recurrent.RecurrentActorCriticPolicy: "RecurrentPPO",
    policies.ActorCriticPolicy: "A2C",
    maskable.MaskableActorCriticPolicy: "MaskablePPO",
    ars.ARSPolicy: "ARS",
    sac.SACPolicy: "SAC",
    td3.TD3Policy: "TD3",
    dqn.DQNPolicy: "DQN",
    qrdqn.QRDQNPolicy: "QRDQN",
    tqc.TQCPolicy: "TQC",
    crossq.CrossQPolicy: "CrossQ",
}
"""The algorithm of each policy, and of those that derive from it."""

_LIBRARY = {module.__name__: module for module in (
    policies, maskable, ars, sac, td3, dqn, qrdqn, tqc, crossq, recurrent, torch_layers
)}  # fmt: skip
_ACTING = (
    *("predict", "_predict", "extract_features", "unscale_action", "obs_to_tensor"),
    *("get_distribution", "_get_action_dist_from_latent", "get_action_dist_params"),
    "_process_sequence",
)
"""The methods by which a policy or its actor acts."""
_PACKAGES = ("stable_baselines3", "sb3_contrib", "torch", "builtins")

ADVICE = f"save the policy's network as TorchScript and use `{files.TORCHSCRIPT}`"


def policy(held: type[Foreign], trusted: Collection[str]) -> type[Any]:
    """Return the class of a policy; raise ValueError if it is none that can be imported."""
    found = _known(held) or _trusted("its policy", held, trusted)
    name = f"{held.module}.{held.name}"
    if not (isinstance(found, type) and issubclass(found, tuple(BASES))):
        raise ValueError(
            f"its policy is the class {name}, which derives from no policy of Stable-Baselines3 "
            f"that can be imported: {ADVICE}"
        )
    return found


def check_own(built: Any) -> None:
    """Raise ValueError if a policy, or an actor of it, acts by code that is not the library's."""
    kind = type(built)
    actor_critic = (policies.ActorCriticPolicy, maskable.MaskableActorCriticPolicy)
    names = _ACTING if issubclass(kind, actor_critic) else ("forward", *_ACTING)
    acting = {name: getattr(kind, name) for name in names if hasattr(kind, name)}
    acting |= {"action_dist": type(getattr(built, "action_dist", None))}
    for name, held in acting.items():
        if held.__module__.partition(".")[0] not in _PACKAGES:
            raise ValueError(
                f"{kind.__qualname__}.{name} is not Stable-Baselines3's own, so how the policy is "
                f"sampled is not known: {ADVICE}"
            )


def argument(name: str, value: Any, trusted: Collection[str]) -> Any:
    """Return an argument of a policy as it was; raise ValueError for what is no data."""
    if isinstance(value, dict):
        return {key: argument(f"{name}.{key}", part, trusted) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(argument(name, part, trusted) for part in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, type) and issubclass(value, Foreign):
        found = _known(value) or _trusted(name, value, trusted)
        base = torch_layers.BaseFeaturesExtractor
        if name == "features_extractor_class" and not (
            isinstance(found, type) and issubclass(found, base)
        ):
            raise ValueError(f"{name} is {value.module}.{value.name}, no {base.__name__}: {ADVICE}")
        return found
    named = value.name if isinstance(value, Foreign) else ""
    if named.startswith("_make_function"):
        raise ValueError(f"{name} is a function, which is code: {ADVICE}")
    held = f"{value.module}.{named}" if named else type(value).__name__
    raise ValueError(f"{name} holds {held}, which can't be read as data: {ADVICE}")


def _known(held: type[Foreign]) -> Any:
    """Return a class of torch.nn or of the library, or None."""
    found: Any = None
    if held.module.startswith("torch.nn.modules."):
        found = vars(nn).get(held.name)
    elif held.module in _LIBRARY:
        found = vars(_LIBRARY[held.module]).get(held.name)
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None


def _trusted(what: str, held: type[Foreign], trusted: Collection[str]) -> Any:
    """Import a class or a function, if the user trusts its module."""
    module, name = held.module, f"{held.module}.{held.name}"
    if held.by_value or module == "__main__":
        raise ValueError(
            f"{what} is the class {name}, which is code of a script or a notebook: move it into a "
            f"module, save the policy again and give --trust with that module, or {ADVICE}"
        )
    if not any(module == one or module.startswith(f"{one}.") for one in trusted):
        raise ValueError(
            f"{what} is the class {name}, which is code that the file does not hold as data: give "
            f"--trust {module} if that code may run here, or {ADVICE}"
        )
    advice = "run the command where `import` finds it"
    with user_code.running(f"--trust: {name} can't be imported", advice):
        found = operator.attrgetter(held.name)(user_code.import_module(module))
    if not isinstance(found, type | FunctionType) or found.__module__ != module:
        told = f"no class or function that {module} defines itself"
        raise ValueError(f"{what} is {name}, which is {told}: {ADVICE}")
    return found
