"""The libraries that run a policy's file. All have the same call."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from triton_backend import cuda, engine

Arrays = tuple[NDArray[Any], ...]

Runtime = Callable[..., Arrays]
"""The arrays of `policy_spec.graph.graph_inputs`, rows first → each output of the policy.

The outputs are of shape (n, elements): the action, and the policy's own action where that is
another. The next state follows, of a policy with a memory.
"""


def onnx(
    path: Path,
    gpu: bool = False,
    threads: int = 1,
    most: int = cuda.SIZES[-1],
    half: bool = False,
) -> Runtime:
    """Open `path` in ONNX Runtime: on the CPU, or as CUDA graphs on the first GPU.

    For a small policy, several threads would only wait for each other. `most` is the number of rows
    that a batch may have, for which graphs are captured. A CPU computes in FP32, `half` or not.
    Raises NoGpuError if a GPU is wanted and ONNX Runtime can't use one, or not in FP16.
    """
    if gpu and half:
        raise cuda.NoGpuError(
            "in FP16 a GPU runs this policy as torchscript or tensorrt, not as onnx: install a "
            "PyTorch with CUDA, or export it with --precision fp32"
        )
    if gpu:
        return cuda.onnx(path, most)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    inputs = [one.name for one in session.get_inputs()]
    outputs = [one.name for one in session.get_outputs()]
    # `run` of the session itself checks the inputs in Python first: a fifth of a small policy's
    # time. The configs of Triton's models hold their names and types already.
    run = getattr(session, "_sess", session).run

    def infer(*given: NDArray[Any]) -> Arrays:
        return tuple(run(outputs, dict(zip(inputs, given, strict=True)), None))

    return infer


def torchscript(
    path: Path,
    gpu: bool = False,
    threads: int = 1,
    most: int = cuda.SIZES[-1],
    half: bool = False,
) -> Runtime:
    """Open `path` in PyTorch: on the CPU, or as CUDA graphs on the first GPU.

    Its arguments are those of `onnx`; if `half`, a GPU computes in FP16. Raises NoGpuError if a GPU
    is wanted and PyTorch can't use one.
    """
    if gpu:
        return cuda.torchscript(path, most, half)
    import torch

    torch.set_num_threads(threads)
    program = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]

    def infer(*inputs: NDArray[Any]) -> Arrays:
        with torch.inference_mode():
            made = program(*map(torch.from_numpy, inputs))
            actions = made if isinstance(made, tuple) else (made,)
            return tuple(action.numpy() for action in actions)

    return infer


def tensorrt(
    path: Path, gpu: bool = True, threads: int = 1, most: int = 0, half: bool = False
) -> Runtime:
    """Open `path` in the TensorRT that built it, always on the first GPU, in the plan's precision.

    Raises engine.UnusableEngineError if this machine can't run it.
    """
    return engine.Engine(path)
