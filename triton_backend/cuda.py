"""Policies on the first GPU, replayed as CUDA graphs.

A launch costs more time than the arithmetic of a small policy. So all launches of a run are
captured once for each of `SIZES`, and then replayed with one call.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Rows of the captured graphs. A batch is padded to the next size."""

PROVIDER = "CUDAExecutionProvider"

Arrays = tuple[NDArray[Any], ...]


class NoGpuError(Exception):
    """A policy can't run on a GPU here. The text says what is missing."""


class Graph(Protocol):
    """A captured run: `run` reads `inputs`, and returns all rows."""

    inputs: Arrays

    def run(self) -> Arrays:
        """Return the outputs. The next run may overwrite their memory."""


class Graphs:
    """A `runtimes.Runtime`: what a policy's graph takes → outputs, by the graphs of a policy.

    They are captured at the first call, which Triton's warm-up makes: it shows the inputs. Use
    them in one thread at a time.
    """

    def __init__(self, capture: Callable[[Arrays], Graph], most: int = SIZES[-1]) -> None:
        """Take the function that captures a run of inputs like these, and the rows of a batch."""
        self._capture = capture
        self._sizes = [size for size in SIZES if size <= padded(min(most, SIZES[-1]))]
        self._graphs: dict[int, Graph] = {}

    def __call__(self, *inputs: NDArray[Any]) -> Arrays:
        """Run the policy. More rows than the largest graph has need several replays."""
        if not self._graphs:
            self._graphs = {rows: self._capture(_zeros(rows, inputs)) for rows in self._sizes}
        parts: list[Arrays] = []
        most, count = self._sizes[-1], len(inputs[0])
        for start in range(0, count, most):
            rows = min(most, count - start)
            graph = self._graphs[padded(rows)]
            for held, given in zip(graph.inputs, inputs, strict=True):
                held[:rows] = given[start : start + rows]  # further rows keep their old content
            parts.append(tuple(output[:rows].copy() for output in graph.run()))
        return parts[0] if len(parts) == 1 else tuple(map(np.concatenate, zip(*parts, strict=True)))


def padded(rows: int) -> int:
    """Return the smallest of `SIZES` that holds `rows`."""
    return next(size for size in SIZES if size >= rows)


def _zeros(rows: int, inputs: Arrays) -> Arrays:
    return tuple(np.zeros((rows, *one.shape[1:]), one.dtype) for one in inputs)


def torchscript(path: Path, most: int = SIZES[-1], half: bool = False) -> Graphs:
    """Open a TorchScript program for batches of at most `most` rows.

    If `half`, convolutions and matrix products are in FP16, and all else is in FP32 as without.
    Raises NoGpuError if PyTorch can use no GPU.
    """
    import torch

    if not torch.cuda.is_available():
        raise NoGpuError(
            f"PyTorch {torch.__version__} can use no GPU here: install a build with CUDA and the "
            "NVIDIA driver that it needs, or serve on the CPU with USE_GPU=0"
        )
    torch.set_float32_matmul_precision("highest")  # no TF32, whatever the environment says
    torch.backends.cudnn.allow_tf32 = False
    program = torch.jit.load(str(path), map_location="cuda").eval()  # type: ignore[no-untyped-call]
    return Graphs(lambda inputs: _TorchGraph(program, inputs, half), most)


ALIGNMENT = 256
"""Bytes: where each input begins in the memory that all of them share."""


class _TorchGraph:
    """A graph from pinned memory to pinned memory. It includes both copies."""

    def __init__(self, program: Any, inputs: Arrays, half: bool) -> None:
        import torch

        ends = np.cumsum([-(-one.nbytes // ALIGNMENT) * ALIGNMENT for one in inputs]).tolist()
        sent = torch.zeros(ends[-1], dtype=torch.uint8, pin_memory=True)
        self._inputs = sent.cuda()

        def parts(whole: Any) -> list[Any]:
            return [
                whole[start : start + one.nbytes].view(torch.from_numpy(one).dtype).view(one.shape)
                for start, one in zip([0, *ends], inputs, strict=False)
            ]

        given = parts(self._inputs)
        self._graph = torch.cuda.CUDAGraph()
        self._stream = torch.cuda.current_stream()
        # Unoptimised: the optimiser would compile other kernels for each size, and at every start.
        plain = torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
        narrow = torch.autocast("cuda", torch.float16, half, cache_enabled=False)
        with torch.inference_mode(), plain, narrow:
            beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            with torch.cuda.stream(beside):
                made = _outputs(program(*given))  # a capture may create no library's handles
            beside.synchronize()
            answers = [torch.zeros_like(one, device="cpu", pin_memory=True) for one in made]
            with torch.cuda.graph(self._graph, stream=beside):
                self._inputs.copy_(sent, non_blocking=True)
                for answer, one in zip(answers, _outputs(program(*given)), strict=True):
                    answer.copy_(one, non_blocking=True)
        self.inputs: Arrays = tuple(one.numpy() for one in parts(sent))
        self._actions: Arrays = tuple(answer.numpy() for answer in answers)

    def run(self) -> Arrays:
        self._graph.replay()
        self._stream.synchronize()
        return self._actions


def _outputs(made: Any) -> tuple[Any, ...]:
    return made if isinstance(made, tuple) else (made,)


def onnx(path: Path, most: int = SIZES[-1]) -> Graphs:
    """Open an ONNX model for batches of at most `most` rows.

    Raises NoGpuError if ONNX Runtime can use no GPU.
    """
    import onnxruntime

    if PROVIDER not in onnxruntime.get_available_providers():
        raise NoGpuError(
            f"ONNX Runtime {onnxruntime.__version__} has no {PROVIDER} here: pip uninstall "
            "onnxruntime, then pip install --force-reinstall --no-deps onnxruntime-gpu"
        )
    onnxruntime.preload_dlls()  # CUDA's libraries, from the packages that PyTorch needs too
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the host has nothing to compute
    flags = {"use_tf32": "0", "enable_cuda_graph": "1"}
    session = onnxruntime.InferenceSession(str(path), options, [(PROVIDER, flags)])
    if PROVIDER not in session.get_providers():  # it only warns, and uses the CPU
        raise NoGpuError(f"ONNX Runtime's {PROVIDER} can use no GPU here, as its log says")
    return Graphs(lambda inputs: _OnnxGraph(session, inputs), most)


DTYPES = {
    **{"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64},
    **{"tensor(int32)": np.int32, "tensor(int8)": np.int8, "tensor(uint8)": np.uint8},
}
"""ONNX Runtime's names of the types of an action, or of a state."""


class _OnnxGraph:
    """A graph from GPU memory to GPU memory. The copies are separate calls."""

    def __init__(self, session: Any, inputs: Arrays) -> None:
        from onnxruntime import OrtValue, RunOptions

        self.inputs, rows = inputs, len(inputs[0])
        self._held = [OrtValue.ortvalue_from_numpy(one, "cuda", 0) for one in inputs]
        self._actions = []
        self._binding = session.io_binding()
        for taken, held in zip(session.get_inputs(), self._held, strict=True):
            self._binding.bind_ortvalue_input(taken.name, held)
        for output in session.get_outputs():
            shape, dtype = (rows, *output.shape[1:]), DTYPES[output.type]
            action = OrtValue.ortvalue_from_shape_and_type(shape, dtype, "cuda", 0)
            self._binding.bind_ortvalue_output(output.name, action)
            self._actions.append(action)
        self._options = RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(rows))
        self._session = session
        self.run()  # which captures

    def run(self) -> Arrays:
        for held, array in zip(self._held, self.inputs, strict=True):
            held.update_inplace(array)
        self._session.run_with_iobinding(self._binding, self._options)
        return tuple(action.numpy() for action in self._actions)
