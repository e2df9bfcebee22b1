"""A policy trained with Stable-Baselines3 → artifact."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import stable_baselines3
import torch
from torch import nn

from converters.artifact import artifact
from converters.artifact.card import Action, Architecture, ArtifactError, Distribution
from converters.artifact.policy import ACTIVATIONS
from converters.errors import one_line
from converters.importers import writer

LAYOUTS = {3: ("throttle", "brake", "steer"), 2: ("steer", "acceleration")}


def import_sb3(
    policy: Path,
    version: str,
    artifacts: Path,
    *,
    vecnormalize: Path | None = None,
    layout: Sequence[str] | None = None,
    **told: Unpack[writer.Told],
) -> Path:
    """Write the artifact of a Stable-Baselines3 `.zip` and return its folder.

    It accepts PPO, A2C, SAC and TD3 with `MlpPolicy`, observations `[speed, steering, sensors…]`
    and two or three actions, which `layout` names. The artifact's actions are compared with
    `model.predict(deterministic=True)`. Raises ArtifactError for another policy, for a policy that
    was trained on normalised observations if their statistics are missing, and for a version that
    exists.
    """
    algorithm, model = _load(policy)
    space, box = model.observation_space, model.action_space
    if len(getattr(space, "shape", None) or ()) != 1 or space.shape[0] < 3:
        raise ArtifactError(f"{policy}: observations must be [speed, steering, sensors…]")
    if getattr(box, "shape", None) not in ((2,), (3,)):
        raise ArtifactError(f"{policy}: actions must be continuous with two or three elements")
    distribution, architecture, state = _lower(policy, algorithm, model.policy)
    if vecnormalize is None and _was_normalised(algorithm, model):
        raise ArtifactError(
            f"{policy}: it was trained on normalised observations: give their statistics with "
            "--vecnormalize FILE"
        )
    return writer.write(
        artifacts / version,
        policy,
        artifact.state_dict_bytes(state),
        lambda features: model.predict(features, deterministic=True)[0],
        "model.predict",
        told,
        kind=algorithm.lower(),
        model_type="pytorch",
        sensors=space.shape[0] - 2,
        action=_action(box, layout),
        preprocessor=vecnormalize,
        architecture=architecture,
        distribution=distribution,
    )


def _action(box: Any, layout: Sequence[str] | None) -> Action:
    """Return the action of a box in the given layout, or in the usual layout of its width.

    Raises ArtifactError for an unknown layout, and if the bounds contradict it: a pedal is 0 or
    more, steering and acceleration have both signs.
    """
    names = tuple(layout or LAYOUTS[box.shape[0]])
    action = writer.action(names, box.low.tolist(), box.high.tolist())
    for name, low, high in zip(names, action.low, action.high, strict=True):
        pedal = name in ("throttle", "brake")
        if (low < 0) if pedal else not low < 0 < high:
            wanted = "0 or more" if pedal else "numbers on both sides of 0"
            raise ArtifactError(
                f"layout {','.join(names)}: the action space bounds {name} by {low:g} and "
                f"{high:g}, but it needs {wanted}: name the elements with --layout"
            )
    return action


def _load(path: Path) -> tuple[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            data = json.loads(archive.read("data"))
        module = str(data["policy_class"]["__module__"])
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path}: no Stable-Baselines3 policy: {error}") from None
    algorithm = {
        "stable_baselines3.sac.policies": "SAC",
        "stable_baselines3.td3.policies": "TD3",
        "stable_baselines3.common.policies": "PPO" if "n_epochs" in data else "A2C",
    }.get(module)
    if algorithm is None:
        raise ArtifactError(
            f"{path}: policies of {module} can't be imported: PPO, A2C, SAC or TD3 can"
        )
    try:
        return algorithm, getattr(stable_baselines3, algorithm).load(path, device="cpu")
    except Exception as error:  # a damaged file, or one of another version, can cause any error
        library = f"Stable-Baselines3 {stable_baselines3.__version__}"
        raise ArtifactError(f"{path}: {library} can't load it: {one_line(error)}") from None


def _lower(
    path: Path, algorithm: str, policy: Any
) -> tuple[Distribution, Architecture, dict[str, torch.Tensor]]:
    """Return the policy's distribution, its architecture, and its weights under our names."""
    if getattr(policy, "use_sde", False) or getattr(
        getattr(policy, "actor", None), "use_sde", False
    ):
        raise ArtifactError(f"{path}: state-dependent exploration (use_sde) can't be imported")
    log_std: Any = None
    if algorithm in ("PPO", "A2C"):
        extractor = policy.pi_features_extractor
        body, mean, log_std = policy.mlp_extractor.policy_net, policy.action_net, policy.log_std
        distribution = Distribution(std="parameter", squash="clip")
    elif algorithm == "SAC":
        extractor = policy.actor.features_extractor
        body, mean, log_std = policy.actor.latent_pi, policy.actor.mu, policy.actor.log_std
        distribution = Distribution(std="network", squash="tanh")
    else:
        extractor = policy.actor.features_extractor
        body, mean = policy.actor.mu[:-2], policy.actor.mu[-2]
        distribution = Distribution(std="none", squash="tanh")
    if type(extractor).__name__ != "FlattenExtractor":
        raise ArtifactError(f"{path}: only MlpPolicy can be imported, not one with {extractor}")
    linears = [layer for layer in body if isinstance(layer, nn.Linear)]
    kinds = {type(layer) for layer in body if not isinstance(layer, nn.Linear)}
    names = [name for name, kind in ACTIVATIONS.items() if kinds <= {kind}]
    if not names or len(body) != 2 * len(linears):
        raise ArtifactError(
            f"{path}: its layers {body} are no plain perceptron of a known activation"
        )
    state = {f"body.{key}": value for key, value in body.state_dict().items()}
    state |= {f"mean.{key}": value for key, value in mean.state_dict().items()}
    if isinstance(log_std, nn.Module):
        state |= {f"log_std.{key}": value for key, value in log_std.state_dict().items()}
    elif log_std is not None:
        state["log_std"] = log_std.detach()
    hidden = [layer.out_features for layer in linears]
    return distribution, Architecture(hidden=hidden, activation=names[0]), state


def _was_normalised(algorithm: str, model: Any) -> bool:
    """Whether the policy was trained behind VecNormalize, as far as its file shows.

    PPO and A2C store the original observation only behind VecNormalize. SAC and TD3 always store
    one. With them the last observation tells: normalised, it is nearly always outside the space.
    """
    if algorithm in ("PPO", "A2C") and model._last_original_obs is not None:
        return True
    last, space = model._last_obs, model.observation_space
    if last is None:
        return False
    return bool(((last < space.low - 1e-3) | (last > space.high + 1e-3)).any())
