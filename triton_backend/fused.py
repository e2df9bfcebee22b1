"""The Triton model `carla_policy_fused-vX.Y.Z`: observations → action in one process.

It runs the same code and gives the same answers as the ensemble. But it has fewer tensors, and data
goes only once from Triton to a Python process and back: that takes most of the time of a call.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb

from triton_backend import joining, tracing
from triton_backend.policy import OnnxPolicy, TorchScriptPolicy
from triton_backend.preprocessing import FILE_NAME, NoiseSource, Preprocessing


class TritonPythonModel:
    """Triton's interface to both steps."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version's statistics and its policy."""
        directory = Path(args["model_repository"]) / args["model_version"]
        self._preprocessing = Preprocessing.load(directory / FILE_NAME)
        self._noise = NoiseSource()
        here = TorchScriptPolicy if (directory / TorchScriptPolicy.file).exists() else OnnxPolicy
        self._infer = here.load(directory, args)
        self._steps = tracing.steps()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer all waiting requests with one pass over their rows."""
        self._times = [time.time_ns()]
        answers = joining.answer(requests, self._read, self._compute, ("action",))
        if self._steps is not None:
            self._steps.record(requests, ("preprocess", "policy"), self._times)
        return answers

    def finalize(self) -> None:
        """Send the last spans."""
        if self._steps is not None:
            self._steps.close()

    def _read(self, request: Any) -> joining.Arrays:
        """Return a request's observations and noise, rows first."""
        observation = joining.tensor(request, "observation")
        key = pb.get_input_tensor_by_name(request, "noise_key")
        width = self._preprocessing.noise
        if key is None:
            return observation, np.zeros((len(observation), width), np.float32)
        seed, row = key.as_numpy().T
        if (seed < -1).any() or (row < 0).any():
            raise ValueError("a seed must be -1 or more, a row 0 or more")
        return observation, self._noise.draw(seed < 0, seed, row, width)

    def _compute(self, observation: Any, noise: Any) -> joining.Arrays:
        features = self._preprocessing.features(observation)
        self._times.append(time.time_ns())
        action = self._infer(features, noise)
        self._times.append(time.time_ns())
        return (action,)
