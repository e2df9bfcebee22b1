"""The Triton model `carla_policy_fused-vX.Y.Z`: observations and state → action in one process.

It runs the same code and gives the same answers as the ensemble. But it has fewer tensors, and data
goes only once from Triton to a Python process and back: that takes most of the time of a call.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb

from policy_spec.noise import NoiseSource
from policy_spec.signature import EPISODE_START
from triton_backend import joining, tracing
from triton_backend.observations import PackedObservations
from triton_backend.policy import OnnxPolicy, TorchScriptPolicy, inputs, output_names
from triton_backend.preprocessing import FILE_NAME, NO_NOISE, Preprocessing


class TritonPythonModel:
    """Triton's interface to both steps."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version's statistics and its policy."""
        directory = Path(args["model_repository"]) / args["model_version"]
        self._preprocessing = Preprocessing.load(directory / FILE_NAME)
        self._observations = PackedObservations(self._preprocessing)
        self._noise = NoiseSource(self._preprocessing.kind)
        self._outputs = output_names(args)
        taken = inputs(args)
        start = (EPISODE_START, 2)  # without it, `state.x` is a part of the observation
        state = [one for one in taken if one[0].startswith("state.")]
        self._memory = [start, *state] if start in taken else []
        here = TorchScriptPolicy if (directory / TorchScriptPolicy.file).exists() else OnnxPolicy
        self._infer = here.load(directory, args)
        self._steps = tracing.steps()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer all waiting requests with one pass over their rows."""
        self._times = [time.time_ns()]
        answers = joining.answer(requests, self._read, self._compute, self._outputs)
        if self._steps is not None:
            self._steps.record(requests, ("preprocess", "policy"), self._times)
        return answers

    def finalize(self) -> None:
        """Send the last spans."""
        if self._steps is not None:
            self._steps.close()

    def _read(self, request: Any) -> joining.Arrays:
        """Return a request's observations, memory and noise, rows first."""
        rows = self._observations.read(request)
        if self._memory:
            rows = *rows, *(joining.tensor(request, *one) for one in self._memory)
        key = pb.get_input_tensor_by_name(request, "noise_key")
        width = self._preprocessing.noise
        if key is None:
            return *rows, np.zeros((len(rows[0]), width), np.float32)
        seed, row = key.as_numpy().T
        if (seed < -1).any() or (row < 0).any():
            raise ValueError("a seed must be -1 or more, a row 0 or more")
        if self._preprocessing.kind == "none" and (seed >= 0).any():
            raise ValueError(NO_NOISE)
        return *rows, self._noise.draw(seed < 0, seed, row, width)

    def _compute(self, *arrays: Any) -> joining.Arrays:
        *rows, noise = arrays
        given = (noise, *self._observations.rasters(rows))
        if self._memory:
            given = *given, *rows[-len(self._memory) :]
            rows = rows[: -len(self._memory)]
        if self._preprocessing.width:
            features = self._preprocessing.features(self._observations.flatten(rows))
            given = (features, *given)
        self._times.append(time.time_ns())
        actions = self._infer(*given)
        self._times.append(time.time_ns())
        return actions
