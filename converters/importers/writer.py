"""Write the artifact of an imported policy, and compare its actions with the policy's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from converters.artifact import artifact, pickles
from converters.artifact.artifact import Artifact
from converters.artifact.card import Action, ArtifactError, ModelCard, first_fault
from converters.export import parity
from converters.importers import files


class Told(TypedDict, total=False):
    """What the user says about a policy, for its card. Every entry is optional.

    `metrics` maps names to values; `observations` is a file (.npy) of recorded ones.
    """

    name: str | None
    description: str
    metrics: dict[str, Any] | None
    observations: Path | None


def action(layout: Sequence[str], low: Sequence[float], high: Sequence[float]) -> Action:
    """Return the action of a layout; raise ArtifactError for an unknown layout."""
    try:
        return Action(layout=tuple(layout), low=tuple(low), high=tuple(high))
    except ValidationError as error:
        raise ArtifactError(f"layout {','.join(layout)}: {first_fault(error)}") from None


def write(
    folder: Path,
    source: Path,
    model: bytes,
    predict: Callable[[NDArray[np.float32]], NDArray[Any]],
    whose: str,
    told: Told,
    *,
    kind: str,
    action: Action,
    sensors: int,
    preprocessor: Path | None,
    **more: Any,
) -> Path:
    """Write the artifact `folder` of the policy in the user's file `source`, and return the folder.

    `model` is the content of `model.pt`, `preprocessor` the user's pickle. `more` are further
    fields of the card; its default name is `carla-{kind}`. `predict` maps features, shape
    (n, features), to the original policy's deterministic actions, shape (n, actions), in `action`'s
    layout and bounds; an error calls them `whose`. Raises ArtifactError, and then leaves nothing.
    """
    name, metrics = told.get("name"), told.get("metrics")
    try:
        card = ModelCard(
            model_name=f"carla-{kind}" if name is None else name,
            version=folder.name,
            input_shape=[sensors + 2],
            output_shape=[len(action.layout)],
            framework_version=torch.__version__.partition("+")[0],
            description=told.get("description", ""),
            sensors=sensors,
            action=action,
            performance_metrics={} if metrics is None else metrics,
            artifact_hashes={},
            **more,
        )
    except ValidationError as error:
        raise ArtifactError(f"{source}: no model card: {first_fault(error)}") from None
    origins = {artifact.MODEL: source}
    pickled = pickles.NOTHING
    if preprocessor is not None:
        origins[artifact.PREPROCESSOR] = preprocessor
        pickled = files.read_statistics(preprocessor)
    return artifact.create(
        folder,
        card,
        model,
        pickled,
        told.get("observations"),
        lambda written: _compare(written, predict, whose),
        origins,
    )


def _compare(
    written: Artifact, predict: Callable[[NDArray[np.float32]], NDArray[Any]], whose: str
) -> None:
    features = parity.features(written, parity.observations(written))
    noise = np.zeros((len(features), written.preprocessing.noise), np.float32)
    assert written.card.action is not None  # `write` gives one
    expected = pedals(predict(features), written.card.action)
    error = float(np.abs(parity.actions(written, features, noise) - expected).max())
    if not error <= parity.TOLERANCE:
        raise ArtifactError(f"its actions differ from {whose} by {error:.2g}")


def pedals(raw: NDArray[Any], action: Action) -> NDArray[Any]:
    """Return throttle, brake and steer, shape (n, 3), of actions in the policy's own layout."""
    columns = dict(zip(action.layout, raw.T, strict=True))
    if "acceleration" in columns:
        columns |= {"throttle": columns["acceleration"], "brake": -columns["acceleration"]}
    stacked = np.stack([columns[name] for name in ("throttle", "brake", "steer")], axis=1)
    mapped: NDArray[Any] = np.clip(stacked, (0, 0, -1), (1, 1, 1))
    return mapped
