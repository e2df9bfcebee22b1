"""A new artifact's actions compared with those of what it was imported from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters import parity
from converters.artifact import Artifact
from converters.card import Action, ArtifactError


def compare(
    written: Artifact, predict: Callable[[NDArray[np.float32]], NDArray[Any]], name: str
) -> None:
    """Compare on recorded observations and the corners of the ranges.

    `predict` gives the original's deterministic actions, shape (n, actions) in its own layout and
    within its bounds, for features of shape (n, features); `name` is what an error calls it. Raises
    ArtifactError for a difference beyond 1e-5.
    """
    observations = np.concatenate([written.observations, parity.corners(written.card.sensors)])
    features = written.preprocessing.features(observations)
    noise = np.zeros((len(features), written.preprocessing.noise), np.float32)
    expected = pedals(predict(features), written.card.action)
    error = float(np.abs(parity.actions(written, features, noise) - expected).max())
    if not error <= parity.TOLERANCE:
        raise ArtifactError(f"its actions differ from {name} by {error:.2g}")


def pedals(raw: NDArray[Any], action: Action) -> NDArray[Any]:
    """Give throttle, brake and steer, shape (n, 3), of actions in a layout of their own."""
    columns = dict(zip(action.layout, raw.T, strict=True))
    if "acceleration" in columns:
        columns |= {"throttle": columns["acceleration"], "brake": -columns["acceleration"]}
    stacked = np.stack([columns[name] for name in ("throttle", "brake", "steer")], axis=1)
    mapped: NDArray[Any] = np.clip(stacked, (0, 0, -1), (1, 1, 1))
    return mapped
