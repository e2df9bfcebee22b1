"""TorchScript policies on the first GPU, replayed as CUDA graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Rows of the graphs that are captured; a batch is padded to the next of them."""


class NoGpuError(Exception):
    """What a policy needs to run on a GPU is not here; the text says what."""


def padded(rows: int) -> int:
    """Give the rows of the graph that takes `rows`, 1 to the largest of `SIZES`."""
    return next(size for size in SIZES if size >= rows)


class TorchScriptGraphs:
    """A TorchScript program: features (n, features) and noise (n, actions) → action (n, 3).

    A launch costs more than the arithmetic of a small policy, so that all launches and both copies
    are captured once for each of `SIZES` and then replayed with one call. That happens at the first
    call, which tells the widths and which Triton's warm-up makes. Not for several threads at once.
    """

    def __init__(self, path: Path) -> None:
        """Open the program at `path`; raises NoGpuError where PyTorch has no GPU."""
        import torch

        if not torch.cuda.is_available():
            raise NoGpuError(
                f"PyTorch {torch.__version__} can use no GPU here: install a build with CUDA and "
                "the NVIDIA driver that it needs, or serve on the CPU with USE_GPU=0"
            )
        torch.set_float32_matmul_precision("highest")  # no TF32, whatever the environment says
        self._program = torch.jit.load(str(path), map_location="cuda").eval()  # type: ignore[no-untyped-call]
        self._stream = torch.cuda.current_stream()
        self._graphs: dict[int, _Graph] = {}

    def __call__(self, features: NDArray[Any], noise: NDArray[Any]) -> NDArray[Any]:
        """Run it; more rows than the largest graph has take several replays."""
        if not self._graphs:
            widths = features.shape[1], noise.shape[1]
            self._graphs = {rows: _Graph(self._program, rows, *widths) for rows in SIZES}
        action = np.empty((len(features), 3), np.float32)
        for start in range(0, len(features), SIZES[-1]):
            part = slice(start, start + SIZES[-1])
            rows = len(features[part])
            graph = self._graphs[padded(rows)]
            graph.features[:rows] = features[part]  # rows beyond keep what was there before
            graph.noise[:rows] = noise[part]
            graph.replay()
            self._stream.synchronize()
            action[part] = graph.action[:rows]
        return action


class _Graph:
    """One captured run of `rows` rows, from pinned memory to pinned memory.

    `features`, `noise` and `action` are arrays in that memory.
    """

    def __init__(self, program: Any, rows: int, features: int, noise: int) -> None:
        import torch

        split = rows * features
        sent = torch.zeros(rows * (features + noise), pin_memory=True)
        answer = torch.zeros((rows, 3), pin_memory=True)
        self._inputs = sent.cuda()
        given = self._inputs[:split].view(rows, -1), self._inputs[split:].view(rows, -1)
        self._graph = torch.cuda.CUDAGraph()
        # Unoptimised: the optimiser would compile other kernels for each size, and at every start.
        plain = torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
        with torch.inference_mode(), plain:
            beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            with torch.cuda.stream(beside):
                program(*given)  # libraries make their handles now; none may be made in a capture
            beside.synchronize()
            with torch.cuda.graph(self._graph, stream=beside):
                self._inputs.copy_(sent, non_blocking=True)
                answer.copy_(program(*given), non_blocking=True)
        self.replay = self._graph.replay
        self.features: NDArray[Any] = sent[:split].view(rows, -1).numpy()
        self.noise: NDArray[Any] = sent[split:].view(rows, -1).numpy()
        self.action: NDArray[Any] = answer.numpy()
