"""The Triton model `carla_policy_fused-vX.Y.Z`: observations → action in one process.

The same inputs, the same code and the same answers as the ensemble, without its second hand-over
between Triton and a Python process, which is what most of a lone call's time goes into.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from triton_backend import joining, preprocess, runtimes
from triton_backend.policy import OnnxPolicy


class TritonPythonModel:
    """Triton's interface to both steps."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version's statistics and its policy."""
        self._preprocess = preprocess.TritonPythonModel()
        self._preprocess.initialize(args)
        directory = Path(args["model_repository"]) / args["model_version"]
        self._infer = runtimes.onnx(directory / OnnxPolicy.file)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer all waiting requests with one pass over their rows."""
        return joining.answer(requests, self._preprocess.read, self._compute, ("action",))

    def _compute(self, *observations: Any) -> joining.Arrays:
        return (self._infer(*self._preprocess.compute(*observations)),)
