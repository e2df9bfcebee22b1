"""A TorchScript program of a policy → artifact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from converters.artifact import artifact
from converters.artifact.card import ArtifactError
from converters.errors import one_line
from converters.importers import files, writer

BOUNDS = {
    "throttle": (0.0, 1.0),
    "brake": (0.0, 1.0),
    "steer": (-1.0, 1.0),
    "acceleration": (-1.0, 1.0),
}


def import_torchscript(
    program: Path,
    version: str,
    artifacts: Path,
    *,
    sensors: int,
    layout: Sequence[str] = ("throttle", "brake", "steer"),
    squash: str = "clip",
    preprocessor: Path | None = None,
    **told: Unpack[writer.Told],
) -> Path:
    """Write the artifact of a TorchScript program and return its folder.

    The program takes float32 features, shape (n, 2 + sensors): the observation after
    `preprocessor` (a pickle). It returns the action's mean, shape (n, actions), or mean and
    standard deviation. `layout` names the action's elements; each is clipped to its range, or
    squashed to it by tanh. The artifact's actions are compared with the program's own. Raises
    ArtifactError for another kind of file and for a version that exists.
    """
    data = files.read(program, "torchscript")
    bounds = [BOUNDS.get(part, (-1.0, 1.0)) for part in layout]
    action = writer.action(layout, *zip(*bounds, strict=True))
    has_std = _has_std(program, data, sensors, layout)

    def predict(features: NDArray[np.float32]) -> NDArray[Any]:
        with torch.inference_mode():
            output = artifact.open_program(data)(torch.from_numpy(features))
        mean: NDArray[Any] = (output[0] if has_std else output).numpy()
        low, high = np.array(action.low), np.array(action.high)
        squashed: NDArray[Any] = low + 0.5 * (np.tanh(mean) + 1) * (high - low)
        return squashed if squash == "tanh" else mean.clip(low, high)

    return writer.write(
        artifacts / version,
        program,
        data,
        predict,
        "the program's own",
        told,
        kind="torchscript",
        model_type="torchscript",
        sensors=sensors,
        action=action,
        preprocessor=preprocessor,
        distribution={"std": "parameter" if has_std else "none", "squash": squash},
    )


def _has_std(path: Path, data: bytes, sensors: int, layout: Sequence[str]) -> bool:
    """Run the program once. Return whether it gives a standard deviation beside the mean."""
    try:
        program = artifact.open_program(data)
    except RuntimeError as error:
        raise ArtifactError(f"{path}: no TorchScript program: {one_line(error)}") from None
    try:
        with torch.inference_mode():
            output = program(torch.zeros(2, sensors + 2))
    except RuntimeError as error:
        raise ArtifactError(
            f"{path}: it does not run on two rows of {sensors + 2} features (speed, steering and "
            f"{sensors} sensors): {one_line(error)[-200:]}"
        ) from None
    parts = output if isinstance(output, tuple) else (output,)
    if len(parts) > 2 or not all(isinstance(part, torch.Tensor) for part in parts):
        raise ArtifactError(f"{path}: it must give a mean, or a mean and a standard deviation")
    if tuple(parts[0].shape) != (2, len(layout)):
        raise ArtifactError(
            f"{path}: for two rows it gives a mean of shape {tuple(parts[0].shape)}, and the "
            f"layout {','.join(layout)} wants (2, {len(layout)})"
        )
    return len(parts) == 2
