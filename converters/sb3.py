"""A policy trained with Stable-Baselines3 → artifact."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from converters import artifact, originals, pickles
from converters.card import (
    Action,
    Architecture,
    ArtifactError,
    Distribution,
    ModelCard,
    first_fault,
    read_bytes,
)
from converters.policy import ACTIVATIONS

LAYOUTS = {3: ("throttle", "brake", "steer"), 2: ("steer", "acceleration")}


def import_sb3(
    policy: Path,
    version: str,
    artifacts: Path,
    *,
    vecnormalize: Path | None = None,
    layout: Sequence[str] | None = None,
    name: str | None = None,
    description: str = "",
    metrics: dict[str, Any] | None = None,
    observations: Path | None = None,
) -> Path:
    """Write the artifact of a Stable-Baselines3 `.zip` and give its folder.

    PPO, A2C, SAC and TD3 with `MlpPolicy`; observations `[speed, steering, sensors…]`, actions of
    two or three elements whose meaning is `layout`. The artifact's actions are compared with
    `model.predict(deterministic=True)`. Raises ArtifactError for a policy of another kind, one
    that was trained on normalised observations whose statistics are not given, and a version that
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
    if metrics is not None and not isinstance(metrics, dict):
        raise ArtifactError("metrics: must be a mapping of names to values")
    actions = box.shape[0]
    action = action_of(box, layout)
    try:
        card = ModelCard(
            model_name=f"carla-{algorithm.lower()}" if name is None else name,
            version=version,
            model_type="pytorch",
            input_shape=[space.shape[0]],
            output_shape=[actions],
            framework_version=torch.__version__.partition("+")[0],
            description=description,
            sensors=space.shape[0] - 2,
            architecture=architecture,
            distribution=distribution,
            action=action,
            performance_metrics={} if metrics is None else metrics,
            artifact_hashes={},
        )
    except ValidationError as error:
        raise ArtifactError(f"{policy}: no model card: {first_fault(error)}") from None
    origins = {artifact.MODEL: policy}
    pickled = pickles.NOTHING
    if vecnormalize is not None:
        origins[artifact.PREPROCESSOR] = vecnormalize
        pickled = read_bytes(vecnormalize)

    def check(written: artifact.Artifact) -> None:
        originals.compare(
            written,
            lambda features: model.predict(features, deterministic=True)[0],
            "model.predict",
        )

    weights = artifact.state_dict_bytes(state)
    folder = artifacts / version
    return artifact.create(folder, card, weights, pickled, observations, check, origins)


def action_of(box: Any, layout: Sequence[str] | None) -> Action:
    """Give the action that a box is in the given layout, or in the usual one of its width.

    Raises ArtifactError for a layout that is none, or whose elements the bounds contradict: pedals
    reach from 0 up, steering and acceleration to both sides of 0.
    """
    names = tuple(layout or LAYOUTS[box.shape[0]])
    said = ",".join(names)
    try:
        action = Action(layout=names, low=tuple(box.low.tolist()), high=tuple(box.high.tolist()))
    except ValidationError as error:
        raise ArtifactError(f"layout {said}: {first_fault(error)}") from None
    for name, low, high in zip(names, action.low, action.high, strict=True):
        pedal = name in ("throttle", "brake")
        if (low < 0) if pedal else not low < 0 < high:
            wanted = "0 or more" if pedal else "numbers on both sides of 0"
            raise ArtifactError(
                f"layout {said}: the action space bounds {name} by {low:g} and {high:g}, where it "
                f"takes {wanted}: say with --layout what the elements are"
            )
    return action


def _load(path: Path) -> tuple[str, Any]:
    try:
        import stable_baselines3
    except ModuleNotFoundError:
        raise ArtifactError(
            "import-sb3 needs Stable-Baselines3: pip install 'carlarl[train]'"
        ) from None
    try:
        with zipfile.ZipFile(path) as archive:
            data = json.loads(archive.read("data"))
        module = data["policy_class"]["__module__"]
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
    return algorithm, getattr(stable_baselines3, algorithm).load(path, device="cpu")


def _lower(
    path: Path, algorithm: str, policy: Any
) -> tuple[Distribution, Architecture, dict[str, torch.Tensor]]:
    """Give how the policy acts, its layers' sizes, and its weights under our names."""
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
    """Whether VecNormalize stood before the policy, as far as its file tells.

    PPO and A2C note the original observation only behind VecNormalize. SAC and TD3 always note one;
    there it shows in a last observation outside the space, which a normalised one nearly always is.
    """
    if algorithm in ("PPO", "A2C") and model._last_original_obs is not None:
        return True
    last, space = model._last_obs, model.observation_space
    if last is None:
        return False
    return bool(((last < space.low - 1e-3) | (last > space.high + 1e-3)).any())
