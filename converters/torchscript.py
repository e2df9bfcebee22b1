"""A TorchScript program that computes a policy's action → artifact."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converters import artifact, originals, pickles
from converters.card import Action, ArtifactError, Distribution, ModelCard, read_bytes

BOUNDS = {
    "throttle": (0.0, 1.0),
    "brake": (0.0, 1.0),
    "steer": (-1.0, 1.0),
    "acceleration": (-1.0, 1.0),
}


def import_torchscript(
    program: Path,
    version: str,
    sensors: int,
    artifacts: Path,
    *,
    layout: Sequence[str] = ("throttle", "brake", "steer"),
    squash: str = "clip",
    preprocessor: Path | None = None,
    name: str = "carla-torchscript",
    description: str = "",
    metrics: dict[str, Any] | None = None,
    observations: Path | None = None,
) -> Path:
    """Write the artifact of a TorchScript program and give its folder.

    The program takes float32 features, shape (n, 2 + sensors), `[speed, steering, sensors…]` as
    `preprocessor` (a pickle) makes them, and gives the action's mean, shape (n, actions), or mean
    and standard deviation. `layout` says what the action's elements are; each is clipped to its
    range, or squashed to it by tanh. The artifact's actions are compared with the program's own.
    Raises ArtifactError for a file of another kind and a version that exists.
    """
    data = read_bytes(program)
    has_std = _outputs(program, data, sensors) == 2
    low, high = zip(*(BOUNDS.get(part, (-1.0, 1.0)) for part in layout), strict=True)
    card = ModelCard(
        model_name=name,
        version=version,
        model_type="torchscript",
        input_shape=[sensors + 2],
        output_shape=[len(layout)],
        framework_version=torch.__version__.partition("+")[0],
        description=description,
        sensors=sensors,
        distribution=Distribution.model_validate(
            {"std": "parameter" if has_std else "none", "squash": squash}
        ),
        action=Action(layout=tuple(layout), low=low, high=high),
        performance_metrics=metrics or {},
        artifact_hashes={},
    )
    origins = {artifact.MODEL: program}
    pickled = pickles.NOTHING
    if preprocessor is not None:
        origins[artifact.PREPROCESSOR] = preprocessor
        pickled = read_bytes(preprocessor)

    def check(written: artifact.Artifact) -> None:
        def predict(features: NDArray[np.float32]) -> NDArray[Any]:
            with torch.inference_mode():
                output = _open(program, data)(torch.from_numpy(features))
            mean: NDArray[Any] = (output[0] if has_std else output).numpy()
            bottom, top = np.array(low), np.array(high)
            squashed: NDArray[Any] = bottom + 0.5 * (np.tanh(mean) + 1) * (top - bottom)
            return squashed if squash == "tanh" else mean.clip(bottom, top)

        originals.compare(written, predict, "the program's own")

    folder = artifacts / version
    return artifact.create(folder, card, data, pickled, observations, check, origins)


def _open(path: Path, data: bytes) -> Any:
    try:
        program = torch.jit.load(io.BytesIO(data), map_location="cpu")  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(f"{path}: no TorchScript program: {reason}") from None
    return program.eval()


def _outputs(path: Path, data: bytes, sensors: int) -> int:
    """Run the program once: 1 where it gives a mean, 2 where mean and standard deviation."""
    try:
        with torch.inference_mode():
            output = _open(path, data)(torch.zeros(2, sensors + 2))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-200:]
        raise ArtifactError(
            f"{path}: it does not run on two rows of {sensors + 2} features (speed, steering and "
            f"{sensors} sensors): {reason}"
        ) from None
    parts = output if isinstance(output, tuple) else (output,)
    if len(parts) > 2 or not all(isinstance(part, torch.Tensor) for part in parts):
        raise ArtifactError(f"{path}: it must give a mean, or a mean and a standard deviation")
    return len(parts)
