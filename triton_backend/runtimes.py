"""The libraries that run a policy's file. All have the same call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from triton_backend import cuda, engine

Arrays = tuple[NDArray[Any], ...]

Runtime = Callable[..., Arrays]
"""The arrays of `policy_spec.graph.graph_inputs`, rows first → each output of the policy.

The outputs are of shape (n, elements): the action, and the policy's own action where that is
another.
"""


def onnx(path: Path, gpu: bool = False, threads: int = 1, most: int = cuda.SIZES[-1]) -> Runtime:
    """Open `path` in ONNX Runtime: on the CPU, or as CUDA graphs on the first GPU.

    For a small policy, several threads would only wait for each other. `most` is the number of rows
    that a batch may have, for which graphs are captured. Raises NoGpuError if a GPU
    is wanted and ONNX Runtime can't use one.
    """
    if gpu:
        return cuda.onnx(path, most)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])

    names = [one.name for one in session.get_inputs()]

    def infer(*inputs: NDArray[Any]) -> Arrays:
        return tuple(session.run(None, dict(zip(names, inputs, strict=True))))

    return infer


def torchscript(
    path: Path, gpu: bool = False, threads: int = 1, most: int = cuda.SIZES[-1]
) -> Runtime:
    """Open `path` in PyTorch: on the CPU, or as CUDA graphs on the first GPU.

    Its arguments are those of `onnx`. Raises NoGpuError if a GPU is wanted and PyTorch can't use
    one.
    """
    if gpu:
        return cuda.torchscript(path, most)
    import torch

    torch.set_num_threads(threads)
    program = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]

    def infer(*inputs: NDArray[Any]) -> Arrays:
        with torch.inference_mode():
            made = program(*map(torch.from_numpy, inputs))
            actions = made if isinstance(made, tuple) else (made,)
            return tuple(action.numpy() for action in actions)

    return infer


def tensorrt(path: Path, gpu: bool = True, threads: int = 1, most: int = 0) -> Runtime:
    """Open `path` in the TensorRT that built it, always on the first GPU.

    Raises engine.UnusableEngineError if this machine can't run it.
    """
    return engine.Engine(path)
