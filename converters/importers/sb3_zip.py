"""Read the zip of a Stable-Baselines3 policy as data: no code in it ever runs.

The zip's `data` is JSON whose entries are values or cloudpickles. Only the entries that a policy
needs are read, by `pickles.load`. So a zip of another Python, numpy, gym or Stable-Baselines3 reads
alike, and a learning rate that is a function does not hinder.
"""

import base64
import inspect
import io
import json
import pickle
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import stable_baselines3
import torch
from numpy.typing import NDArray
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from converters.artifact import pickles
from converters.artifact.card import ArtifactError
from converters.errors import one_line
from converters.importers import files, sb3_classes, sb3_spaces
from converters.importers.sb3_spaces import Space

ALGORITHMS = ("PPO", "TRPO", "DDPG", *sb3_classes.BASES.values())
"""What can be read."""

ON_POLICY = ("PPO", "A2C", "TRPO", "MaskablePPO", "RecurrentPPO", "ARS")

_IGNORED = ("optimizer_class", "optimizer_kwargs", "sde_net_arch")
"""Arguments that no policy needs to act. `sde_net_arch` has no effect since 1.3."""
_LARGEST = 1 << 28
"""Most bytes of an entry of the zip."""


@dataclass(frozen=True)
class SavedPolicy:
    """A policy that Stable-Baselines3 saved.

    Attributes:
        algorithm: one of ALGORITHMS. TD3 with the settings of DDPG is DDPG.
        policy: the policy with its weights, on the CPU, in evaluation mode. Its `predict` gives
            what the model's would.
        observation_space: as the policy saw it, behind all wrappers.
        action_space: as the policy saw it.
        trained: it was itself trained, and the zip holds all that its algorithm keeps of that.
            Weights of another policy may have been set into it otherwise.
        last_observation: what it saw last, a batch, or None.
        last_original: what `sb3_normalisation` needs; a batch, or None.
    """

    algorithm: str
    policy: Any
    observation_space: Space
    action_space: Space
    trained: bool
    last_observation: Any
    last_original: Any

    @property
    def network(self) -> Any:
        """The part of the policy that decides: a net of its own, or the policy itself."""
        nets = {"DQN": "q_net", "QRDQN": "quantile_net"}
        name = "" if self.algorithm in ON_POLICY else nets.get(self.algorithm, "actor")
        return getattr(self.policy, name) if name else self.policy

    @property
    def extractor(self) -> Any:
        """The features extractor that it decides with."""
        network = self.network
        return getattr(network, "pi_features_extractor", network.features_extractor)


class _Data:
    """The zip's `data`: JSON, with some entries pickled."""

    def __init__(self, path: Path, entries: dict[str, Any]) -> None:
        self.path = path
        self.entries = entries

    def __getitem__(self, name: str) -> Any:
        """Return an entry, None if there is none; raise ArtifactError if it can't be read."""
        entry = self.entries.get(name)
        if not isinstance(entry, dict) or ":serialized:" not in entry:
            return entry
        try:
            return pickles.load(base64.b64decode(str(entry[":serialized:"])), unknown=True)
        except ValueError as error:
            held = [f"{key}: {value}" for key, value in entry.items() if key[0] != ":"]
            told = ", ".join([str(entry.get(":type:", "")), *held])
            reason = f"{name} ({told}) can't be read as data: {error}"
            raise ArtifactError(f"{self.path}: {one_line(reason)}") from None


def read(path: Path, trusted: Collection[str] = ()) -> SavedPolicy:
    """Read the zip of a policy. Raise ArtifactError, which says what can't be read and why.

    Classes of the modules that are `trusted`, and of their submodules, are imported and run.
    """
    members = _members(path)
    data = _Data(path, _json(path, members["data"]))
    try:
        kind = _policy_class(data, trusted)
        algorithm = _algorithm(kind, data)
        observation_space = sb3_spaces.rebuild(data["observation_space"])
        action_space = sb3_spaces.rebuild(data["action_space"])
        arguments = _arguments(data["policy_kwargs"] or {}, trusted)
        trained = _steps(data["num_timesteps"]) > 0
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: {one_line(error)}") from None
    weights = _weights(path, members["policy.pth"])
    if algorithm in ("PPO", "A2C", "TRPO", "RecurrentPPO"):
        arguments["use_sde"] = bool(data["use_sde"])
        _split_shared_layers(arguments, weights)
        _split_shared_extractor(weights)
    original = _batch(data["_last_original_obs"])
    none = "_last_original_obs" in data.entries and data["_last_original_obs"] is None
    if algorithm != "ARS":
        arguments["lr_schedule"] = lambda _: 0.0
    return SavedPolicy(
        algorithm=algorithm,
        policy=_build(path, kind, observation_space, action_space, arguments, weights),
        observation_space=observation_space,
        action_space=action_space,
        trained=trained and (none or original is not None),
        last_observation=_batch(data["_last_obs"]),
        last_original=original,
    )


def _members(path: Path) -> dict[str, bytes]:
    content = files.read(path, "sb3")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = [archive.getinfo(name) for name in ("data", "policy.pth")]
            if any(info.file_size > _LARGEST for info in found):
                raise ValueError(f"an entry of it has more than {_LARGEST} bytes")
            return {info.filename: archive.read(info) for info in found}
    except Exception as error:  # whatever a damaged or hostile zip can provoke in zipfile
        reason = one_line(error.args[0] if isinstance(error, KeyError) else error)
        raise ArtifactError(
            f"{path}: no Stable-Baselines3 policy ({reason}): write it with model.save(FILE)"
        ) from None


def _json(path: Path, content: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(content)
        if not isinstance(entries, dict) or "policy_class" not in entries:
            raise ValueError("its data names no policy class")
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: no Stable-Baselines3 policy: {one_line(error)}") from None
    return entries


def _policy_class(data: _Data, trusted: Collection[str]) -> type[Any]:
    found = data["policy_class"]
    if not (isinstance(found, type) and issubclass(found, pickles.Foreign)):
        raise ValueError("no Stable-Baselines3 policy: its policy class is no class")
    return sb3_classes.policy(found, trusted)


def _algorithm(kind: type[Any], data: _Data) -> str:
    algorithm = next(name for base, name in sb3_classes.BASES.items() if issubclass(kind, base))
    if algorithm == "A2C" and "cg_max_steps" in data.entries:
        return "TRPO"
    if algorithm == "A2C" and "clip_range" in data.entries:
        return "PPO"
    if algorithm == "TD3":
        arguments = data.entries.get("policy_kwargs")
        critics = arguments.get("n_critics") if isinstance(arguments, dict) else None
        return "DDPG" if (critics, data["policy_delay"]) == (1, 1) else "TD3"
    return algorithm


def _arguments(given: Any, trusted: Collection[str]) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ValueError("its policy_kwargs are no dictionary")
    return {
        str(name): sb3_classes.argument(str(name), value, trusted)
        for name, value in given.items()
        if name not in _IGNORED
    }


def _steps(value: Any) -> int:
    if not isinstance(value, int):
        raise ValueError("its num_timesteps is no number")
    return value


def _weights(path: Path, content: bytes) -> dict[str, torch.Tensor]:
    try:
        weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if not isinstance(weights, Mapping):
            raise ValueError("no state dict")
        return dict(weights)
    except pickle.UnpicklingError:  # torch's own text advises to run it
        raise ArtifactError(
            f"{path}: its policy.pth is damaged, or holds objects beside weights, which is code: "
            "save the policy again with model.save(FILE)"
        ) from None
    except Exception as error:  # whatever a damaged or hostile file can provoke in torch
        raise ArtifactError(f"{path}: its policy.pth can't be read: {one_line(error)}") from None


def _split_shared_layers(arguments: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    """Give actor and critic a copy each of the layers that they shared before SB3 1.8."""
    architecture = arguments.get("net_arch")
    if not isinstance(architecture, list):
        return
    shared = [layer for layer in architecture if not isinstance(layer, dict)]
    own = next((layer for layer in architecture if isinstance(layer, dict)), {})
    split = [key for key in weights if key.startswith("mlp_extractor.shared_net.")]
    if not split and not own:
        return
    moved: dict[str, torch.Tensor] = {}
    arguments["net_arch"] = {part: shared + list(own.get(part, [])) for part in ("pi", "vf")}
    for key in [key for key in weights if split and key.startswith("mlp_extractor.")]:
        _, net, index, kind = key.split(".")
        if net != "shared_net":
            moved[f"mlp_extractor.{net}.{int(index) + 2 * len(shared)}.{kind}"] = weights.pop(key)
    for key in split:
        for net in ("policy_net", "value_net"):
            moved[key.replace("shared_net", net)] = weights[key]
        del weights[key]
    weights.update(moved)


def _split_shared_extractor(weights: dict[str, torch.Tensor]) -> None:
    """Name the extractor that actor and critic share for each of them, as since SB3 1.7."""
    for key in [key for key in weights if key.startswith("features_extractor.")]:
        for net in ("pi", "vf"):
            weights.setdefault(f"{net}_{key}", weights[key])


def _bound(weights: dict[str, torch.Tensor]) -> Any:
    """Return a hook that raises ValueError once a network has far more parameters than its weights.

    It bounds time and memory, and leaves some for parameters that a class replaces by others.
    """
    left = [2 * len(weights) + 1000, 2 * sum(one.numel() for one in weights.values()) + 1_000_000]

    def count(module: Any, name: str, parameter: Any) -> None:
        if parameter is None or is_lazy(parameter):
            return
        left[0] -= 1
        left[1] -= parameter.numel()
        if min(left) < 0:
            raise ValueError("its policy_kwargs make far more weights than its policy.pth holds")

    return count


def _build(
    path: Path,
    kind: type[Any],
    observation_space: Space,
    action_space: Space,
    arguments: dict[str, Any],
    weights: dict[str, torch.Tensor],
) -> Any:
    if "ortho_init" in inspect.signature(kind).parameters:
        arguments["ortho_init"] = False  # it takes long for wide layers, whose weights are here
    try:
        with register_module_parameter_registration_hook(_bound(weights)):
            policy = kind(observation_space, action_space, **arguments)
        policy.load_state_dict(weights)
        policy.set_training_mode(False)
        return policy.requires_grad_(False)
    except Exception as error:  # whatever spaces and arguments that do not fit can provoke
        library = f"Stable-Baselines3 {stable_baselines3.__version__}"
        raise ArtifactError(f"{path}: {library} can't build it: {one_line(error)}") from None


def _batch(value: Any) -> NDArray[Any] | dict[str, NDArray[Any]] | None:
    parts = value if isinstance(value, dict) else {"": value}
    if value is None or not all(isinstance(part, pickles.Array) for part in parts.values()):
        return None
    return (
        {str(key): part.values for key, part in value.items()} if parts is value else value.values
    )
