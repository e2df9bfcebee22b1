"""The Triton models `policy_<format>-vX.Y.Z`: features, noise, rasters, state → action, state."""

import json
from pathlib import Path
from typing import Any, ClassVar

from triton_backend import joining, runtimes


def output_names(args: dict[str, str]) -> list[str]:
    """Return the names of the outputs that a policy computes, in order, from a model's `args`."""
    outputs = json.loads(args["model_config"])["output"]
    return [one["name"] for one in outputs if one["name"] != "nonce_echo"]


def inputs(args: dict[str, str]) -> list[tuple[str, int]]:
    """Return the name of each input but the nonce, and how many dimensions it has."""
    taken = json.loads(args["model_config"])["input"]
    return [(one["name"], 1 + len(one["dims"])) for one in taken if one["name"] != "nonce"]


class _PolicyModel:
    """Triton's interface to a policy file."""

    open: ClassVar[Any]
    file: ClassVar[str]

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version's policy on the device of this model instance."""
        directory = Path(args["model_repository"]) / args["model_version"]
        self._infer = self.load(directory, args)
        self._outputs = output_names(args)
        self._inputs = inputs(args)

    @classmethod
    def load(cls, directory: Path, args: dict[str, str]) -> runtimes.Runtime:
        """Open the policy's file in `directory`, as `args` and the parameters in them say."""
        config = json.loads(args["model_config"])
        parameters = config.get("parameters", {})
        told = {name: one["string_value"] for name, one in parameters.items()}
        runtime: runtimes.Runtime = cls.open(
            directory / cls.file,
            args["model_instance_kind"] == "GPU",
            int(told.get("threads", "1")),
            int(config["max_batch_size"]),
            told.get("precision") == "fp16",
        )
        return runtime

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer all waiting requests with one call of the runtime."""
        return joining.answer(requests, self._read, self._infer, self._outputs)

    def _read(self, request: Any) -> joining.Arrays:
        return tuple(joining.tensor(request, *one) for one in self._inputs)


class OnnxPolicy(_PolicyModel):
    """`policy_onnx-vX.Y.Z`, on ONNX Runtime."""

    open = staticmethod(runtimes.onnx)
    file = "model.onnx"


class TorchScriptPolicy(_PolicyModel):
    """`policy_torchscript-vX.Y.Z`, on PyTorch."""

    open = staticmethod(runtimes.torchscript)
    file = "model.pt"


class TensorRTPolicy(_PolicyModel):
    """`policy_tensorrt-vX.Y.Z`, on the TensorRT that built it. It refuses other machines."""

    open = staticmethod(runtimes.tensorrt)
    file = "model.plan"
