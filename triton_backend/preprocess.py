"""The Triton model `preprocess-vX.Y.Z`: observations → features and noise.

Rasters do not come here. Where an observation is rasters alone, there is only noise.
"""

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb

from policy_spec.noise import NoiseSource
from triton_backend import joining
from triton_backend.observations import Observations
from triton_backend.preprocessing import FILE_NAME, NO_NOISE, Preprocessing


class TritonPythonModel:
    """Triton's interface to `Preprocessing` and `NoiseSource`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the version's statistics."""
        directory = Path(args["model_repository"]) / args["model_version"]
        self._preprocessing = Preprocessing.load(directory / FILE_NAME)
        self._observations = Observations(self._preprocessing)
        self._noise = NoiseSource(self._preprocessing.kind)
        self._outputs = ("features", "noise") if self._preprocessing.width else ("noise",)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer all waiting requests with one pass over their rows."""
        return joining.answer(requests, self._read, self._compute, self._outputs)

    def _read(self, request: Any) -> joining.Arrays:
        rows = self._observations.read(request)
        deterministic = joining.tensor(request, "deterministic")[:, 0]
        seed = joining.tensor(request, "seed")[:, 0]
        given = pb.get_input_tensor_by_name(request, "row")
        row = np.arange(len(seed)) if given is None else given.as_numpy()[:, 0]
        if (seed < 0).any() or (row < 0).any():
            raise ValueError("seed and row must not be negative")
        if self._preprocessing.kind == "none" and not deterministic.all():
            raise ValueError(NO_NOISE)
        return *rows, deterministic, seed, row

    def _compute(self, *arrays: Any) -> joining.Arrays:
        *rows, deterministic, seed, row = arrays
        noise = self._noise.draw(deterministic, seed, row, self._preprocessing.noise)
        if not rows:
            return (noise,)
        return self._preprocessing.features(self._observations.flatten(rows)), noise
