"""A policy trained with Stable-Baselines3 → artifact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from gymnasium import spaces
from torch import nn

from converters.artifact import artifact
from converters.artifact.card import Action, Architecture, ArtifactError, Distribution
from converters.artifact.policy import ACTIVATIONS
from converters.importers import sb3_normalisation, sb3_zip, writer

LAYOUTS = {3: ("throttle", "brake", "steer"), 2: ("steer", "acceleration")}


def import_sb3(
    policy: Path,
    version: str,
    artifacts: Path,
    *,
    vecnormalize: Path | Literal["none"] | None = None,
    layout: Sequence[str] | None = None,
    **told: Unpack[writer.Told],
) -> Path:
    """Write the artifact of a Stable-Baselines3 `.zip` and return its folder.

    It accepts PPO, A2C, SAC, TD3 and DDPG with `MlpPolicy`, observations `[speed, steering,
    sensors…]` and two or three actions, which `layout` names. `vecnormalize` is the file of the
    statistics that the policy was trained with, or "none": it saw the observations as they are. The
    artifact's actions are compared with `model.predict(deterministic=True)`. Raises ArtifactError
    for another policy, where the zip does not tell that it was trained without VecNormalize and
    `vecnormalize` is None, where it tells that and `vecnormalize` is a file, and for a version that
    exists.
    """
    saved = sb3_zip.read(policy)
    space, box = saved.observation_space, saved.action_space
    if not isinstance(space, spaces.Box) or len(space.shape) != 1 or space.shape[0] < 3:
        raise ArtifactError(f"{policy}: observations must be [speed, steering, sensors…]")
    if not isinstance(box, spaces.Box) or box.shape not in ((2,), (3,)):
        raise ArtifactError(f"{policy}: actions must be continuous with two or three elements")
    distribution, architecture, state = _lower(policy, saved.algorithm, saved.policy)
    statistics = sb3_normalisation.check(policy, saved, vecnormalize)
    return writer.write(
        artifacts / version,
        policy,
        artifact.state_dict_bytes(state),
        lambda features: saved.policy.predict(features, deterministic=True)[0],
        "model.predict",
        told,
        kind=saved.algorithm.lower(),
        model_type="pytorch",
        sensors=space.shape[0] - 2,
        action=_action(box, layout),
        preprocessor=statistics,
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
