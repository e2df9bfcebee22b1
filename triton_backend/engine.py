"""TensorRT engines: the record of how one was built, and whether this machine can run it."""

from __future__ import annotations

import hashlib
import importlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE_NAME = "builder.json"

LIBRARIES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx_bindings"}
"""Builder → the Python module that builds and runs its engines."""

EXTRAS = {"tensorrt": "gpu", "tensorrt-rtx": "tensorrt"}
"""Builder → the extra of `carlarl` that installs it."""


class UnusableEngineError(Exception):
    """This machine can't run an engine. The text says why."""


@dataclass(frozen=True)
class BuildRecord:
    """The content of `builder.json`: how the plan beside it was built.

    Attributes:
        builder: `tensorrt` (NVIDIA's, alone or with torch-tensorrt) or `tensorrt-rtx`.
        version: the builder's version; only the same one runs the plan.
        compute_capabilities: the kinds of GPU it was built for, like `8.6`.
        profile: rows of a batch: `min`, `opt` (it is tuned for these) and `max`.
        precision: of weights and arithmetic.
        source: `sha256:…` of the ONNX file that it was built from.
        plan: `sha256:…` of the plan.
    """

    builder: str
    version: str
    compute_capabilities: tuple[str, ...]
    profile: dict[str, int]
    precision: str
    source: str
    plan: str

    def dumps(self) -> str:
        """Return the text of the file."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def load(cls, path: Path) -> BuildRecord:
        """Read the text of `dumps`; raise ValueError for anything else, OSError without a file."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            content["compute_capabilities"] = tuple(content["compute_capabilities"])
            return cls(**content)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: no record of a TensorRT build: {error}") from None


@dataclass(frozen=True)
class Machine:
    """The properties of a machine that decide whether it can run an engine.

    Attributes:
        library: version of the record's library, or None if it is not installed.
        capability: compute capability of the first GPU, like `8.6`; None without one.
    """

    library: str | None
    capability: str | None

    @classmethod
    def here(cls, builder: str) -> Machine:
        """Return the properties of this machine for an engine of `builder`."""
        return cls(library_version(builder), gpu_capability())


def refusal(record: BuildRecord, machine: Machine) -> str | None:
    """Return one sentence why `machine` can't run the recorded engine, or None if it can."""
    if record.builder not in LIBRARIES:
        known = " or ".join(LIBRARIES)
        return f"the engine was built by {record.builder!r}, and only {known} can be run"
    built = f"the engine was built by {record.builder} {record.version}"
    if machine.library is None:
        return f"{built}, which is not installed here: pip install -e '.[{EXTRAS[record.builder]}]'"
    if machine.library != record.version:
        return (
            f"{built}, and {machine.library} is installed here: install that version, or export "
            "again on this machine"
        )
    if machine.capability is None:
        return f"{built} for a GPU, and there is no NVIDIA GPU here that PyTorch can use"
    if machine.capability not in record.compute_capabilities:
        targets = ", ".join(record.compute_capabilities)
        return (
            f"{built} for compute capability {targets}, and the GPU here has {machine.capability}: "
            f"export again with --compute-capability {machine.capability}"
        )
    return None


def library_version(builder: str) -> str | None:
    """Return the installed version of a builder's library, or None if there is none."""
    try:
        version: str = importlib.import_module(LIBRARIES[builder]).__version__
    except ImportError:
        return None
    return version


def gpu_capability() -> str | None:
    """Return the first GPU's compute capability, like `8.6`; or None if PyTorch finds no GPU."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(0)
    return f"{major}.{minor}"


def digest(content: bytes) -> str:
    """Return `sha256:` and the hexadecimal digest of a file's content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Engine:
    """A plan on the first GPU, a `runtimes.Runtime`: what a policy's graph takes → outputs.

    Only the check of the record has been run: there was no GPU for these engines when this class
    was written.
    """

    def __init__(self, path: Path) -> None:
        """Open the plan at `path`.

        Raises UnusableEngineError if its record says that this machine can't run it, and
        ValueError if the plan is not the recorded one or can't be read.
        """
        record = BuildRecord.load(path.with_name(FILE_NAME))
        reason = refusal(record, Machine.here(record.builder))
        if reason is not None:
            raise UnusableEngineError(reason)
        plan = path.read_bytes()
        if digest(plan) != record.plan:
            raise ValueError(f"{path}: it is not the plan that {FILE_NAME} is about")
        import torch

        self._torch = torch
        self._device = torch.device("cuda", 0)
        torch.cuda.set_device(self._device)
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        trt: Any = importlib.import_module(LIBRARIES[record.builder])
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ValueError(f"{path}: {record.builder} {record.version} can't read it")
        self._context = self._engine.create_execution_context()
        types = {"FLOAT": torch.float32, "INT64": torch.int64, "INT32": torch.int32}
        types |= {"INT8": torch.int8, "UINT8": torch.uint8}
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        taken = [self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names]
        self._inputs = [name for name, is_input in zip(names, taken, strict=True) if is_input]
        self._outputs = [
            (name, tuple(self._engine.get_tensor_shape(name))[1:], types[dtype.name])
            for name in names
            if name not in self._inputs
            for dtype in [self._engine.get_tensor_dtype(name)]
        ]

    def __call__(self, *inputs: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """Run the plan; raise ValueError for more rows than its profile has."""
        torch, context = self._torch, self._context
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            buffers = {
                name: torch.from_numpy(np.ascontiguousarray(array)).to(self._device)
                for name, array in zip(self._inputs, inputs, strict=True)
            }
            for name, tensor in buffers.items():
                if not context.set_input_shape(name, tuple(tensor.shape)):
                    raise ValueError(f"the engine does not take {name} of {tuple(tensor.shape)}")
            actions = [
                torch.empty((len(inputs[0]), *shape), dtype=dtype, device=self._device)
                for _, shape, dtype in self._outputs
            ]
            buffers |= {name: one for (name, *_), one in zip(self._outputs, actions, strict=True)}
            for name, tensor in buffers.items():
                context.set_tensor_address(name, tensor.data_ptr())
            if not context.execute_async_v3(self._stream.cuda_stream):
                raise RuntimeError("the engine did not run")
            return tuple(action.cpu().numpy() for action in actions)  # waits for the stream
