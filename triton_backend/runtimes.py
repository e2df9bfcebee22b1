"""The libraries that run a policy's file, each behind the same call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from triton_backend import engine

Runtime = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
"""Features (n, features) and noise (n, actions) → action (n, 3), all float32."""


def onnx(path: Path, gpu: bool = False) -> Runtime:
    """Open `path` in ONNX Runtime; one thread, since more would only wait for each other here."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    provider = "CUDAExecutionProvider" if gpu else "CPUExecutionProvider"
    session = onnxruntime.InferenceSession(str(path), options, [provider])

    def infer(features: NDArray[Any], noise: NDArray[Any]) -> NDArray[Any]:
        action: NDArray[Any] = session.run(["action"], {"features": features, "noise": noise})[0]
        return action

    return infer


def torchscript(path: Path, gpu: bool = False) -> Runtime:
    """Open `path` in PyTorch; on the CPU with one thread."""
    import torch

    torch.set_num_threads(1)
    device = torch.device("cuda" if gpu else "cpu")
    program = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]

    def infer(features: NDArray[Any], noise: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            inputs = (torch.from_numpy(array).to(device) for array in (features, noise))
            action: NDArray[Any] = program(*inputs).cpu().numpy()
        return action

    return infer


def tensorrt(path: Path, gpu: bool = True) -> Runtime:
    """Open `path` in the TensorRT that built it, on the first GPU whatever `gpu` says.

    Raises engine.UnusableEngineError, saying why, where this machine can't run it.
    """
    return engine.Engine(path)
