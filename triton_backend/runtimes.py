"""The libraries that run a policy's file, each behind the same call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from triton_backend import engine
from triton_backend.cuda import NoGpuError, TorchScriptGraphs

Runtime = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
"""Features (n, features) and noise (n, actions) → action (n, 3), all float32."""


def onnx(path: Path, gpu: bool = False) -> Runtime:
    """Open `path` in ONNX Runtime; one thread, since more would only wait for each other here.

    Raises NoGpuError where a GPU is asked for and ONNX Runtime can't use one.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    providers: list[Any] = ["CPUExecutionProvider"]
    if gpu:
        if _CUDA not in onnxruntime.get_available_providers():
            raise NoGpuError(f"the ONNX Runtime here has no {_CUDA}: {_INSTALL}")
        onnxruntime.preload_dlls()  # CUDA's libraries, out of the packages that PyTorch needs too
        providers.insert(0, (_CUDA, {"use_tf32": "0"}))
    session = onnxruntime.InferenceSession(str(path), options, providers)
    if gpu and session.get_providers()[0] != _CUDA:  # it only warns, and takes the CPU
        raise NoGpuError(f"ONNX Runtime's {_CUDA} does not start, for a reason that it has logged")

    def infer(features: NDArray[Any], noise: NDArray[Any]) -> NDArray[Any]:
        action: NDArray[Any] = session.run(["action"], {"features": features, "noise": noise})[0]
        return action

    return infer


_CUDA = "CUDAExecutionProvider"
_INSTALL = "pip uninstall onnxruntime, then pip install --force-reinstall --no-deps onnxruntime-gpu"


def torchscript(path: Path, gpu: bool = False) -> Runtime:
    """Open `path` in PyTorch: with one thread on the CPU, as CUDA graphs on the first GPU.

    Raises NoGpuError where a GPU is asked for and PyTorch can't use one.
    """
    if gpu:
        return TorchScriptGraphs(path)
    import torch

    torch.set_num_threads(1)
    program = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]

    def infer(features: NDArray[Any], noise: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            inputs = (torch.from_numpy(array) for array in (features, noise))
            action: NDArray[Any] = program(*inputs).numpy()
        return action

    return infer


def tensorrt(path: Path, gpu: bool = True) -> Runtime:
    """Open `path` in the TensorRT that built it, on the first GPU whatever `gpu` says.

    Raises engine.UnusableEngineError, saying why, where this machine can't run it.
    """
    return engine.Engine(path)
