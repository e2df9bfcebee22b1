"""The formats of an exported policy, and the runtime that checks and serves each."""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch.onnx.errors import UnsupportedOperatorError

from converters.artifact.policy import Policy, zeros
from converters.errors import ConversionError
from converters.export import tensorrt
from policy_spec.graph import Input
from triton_backend import engine, runtimes
from triton_backend.preprocessing import Preprocessing

OPSET = 18


class ExportError(ConversionError):
    """A policy can't be converted into a format, or not run in it."""


@dataclass(frozen=True)
class Program:
    """A policy, traced into one frozen TorchScript program. Every format is written from it.

    Attributes:
        script: the program.
        inputs: what it takes.
        example: rows of zeros for them.
        outputs: names of its outputs.
        rows: the most rows of a batch.
        capabilities: compute capabilities of TensorRT engines; empty for the default ones.
    """

    script: torch.jit.ScriptModule
    inputs: tuple[Input, ...]
    example: tuple[torch.Tensor, ...]
    outputs: tuple[str, ...]
    rows: int
    capabilities: tuple[str, ...] = ()

    @classmethod
    def trace(
        cls,
        policy: Policy,
        preprocessing: Preprocessing,
        rows: int,
        capabilities: tuple[str, ...] = (),
    ) -> Program:
        """Trace the `policy` that has this preprocessing.

        Raises ExportError for one that changes an attribute of itself.
        """
        example = tuple(zeros(preprocessing, 2))
        traced: torch.nn.Module = policy
        if not preprocessing.width:
            example, traced = example[1:], _WithoutFeatures(policy)
        script = torch.jit.trace(traced.eval(), example)  # type: ignore[no-untyped-call]
        frozen = torch.jit.freeze(script)
        graph = frozen.inlined_graph  # its nodes live as long as it does
        if changed := graph.findAllNodes("prim::SetAttr"):
            raise ExportError(
                f"the program changes its own attribute {changed[0].s('name')}, and a policy that "
                "is served can't remember anything"
            )
        _forbid_tf32(frozen.graph)
        two = isinstance(frozen(*example), tuple)
        outputs = ("action", "policy_action") if two else ("action",)
        return cls(frozen, preprocessing.inputs, example, outputs, rows, capabilities)


def _forbid_tf32(graph: Any) -> None:
    """Keep convolutions exact on a GPU. A trace says for each whether it may take TF32, and yes."""
    for node in graph.findAllNodes("aten::_convolution"):
        graph.setInsertPoint(node)
        for index in range(12, node.inputsSize()):  # a trace of an older PyTorch has only 12
            node.replaceInput(index, graph.insertConstant(False))


class _WithoutFeatures(torch.nn.Module):
    """A policy that takes noise and rasters alone."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, noise: torch.Tensor, *rasters: torch.Tensor) -> Any:
        return self.policy(noise[:, :0], noise, *rasters)


@dataclass(frozen=True)
class Format:
    """One way to store a policy.

    Attributes:
        name: as in the model `policy_<name>` and in `--formats`.
        file: the file in the version's folder.
        model: the class of `triton_backend.policy` that serves it.
        write: writes a program to a path. The files of the last export are in the same folder.
        open: opens the path in the runtime that will serve it; raises UnusableEngineError if
            this machine has no such runtime.
        beside: further files that `write` makes.
        device: `CPU`, or `GPU` for a format that runs nowhere else.
    """

    name: str
    file: str
    model: str
    write: Callable[[Program, Path], None]
    open: Callable[[Path], runtimes.Runtime]
    beside: tuple[str, ...] = ()
    device: str = "CPU"


def _write_onnx(program: Program, path: Path) -> None:
    # torch's TorchScript-based exporter. Unlike the newer one it accepts scripted artifacts, always
    # writes the same file, and writes no path of this machine.
    numbered = {f"/{one.name}": one.name for one in program.inputs if one.name.isdigit()}
    names = [f"/{one.name}" if one.name.isdigit() else one.name for one in program.inputs]
    with warnings.catch_warnings(), _no_output():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                program.script,
                program.example,
                str(path),
                dynamo=False,
                input_names=names,
                output_names=list(program.outputs),
                dynamic_axes={name: {0: "batch"} for name in (*names, *program.outputs)},
                opset_version=OPSET,
            )
        except UnsupportedOperatorError as error:
            operator = re.search("aten::[a-z0-9_]+", str(error))
            raise ExportError(
                f"ONNX has no operator for {operator[0] if operator else error}: export it with "
                "--formats torchscript"
            ) from error
    if numbered:
        _rename(path, numbered)


def _rename(path: Path, inputs: Mapping[str, str]) -> None:
    """Rename inputs of an ONNX file: the exporter refuses names that are numbers, as in a Tuple."""
    model = onnx.load(str(path))
    for tensor in model.graph.input:
        if tensor.name in inputs:
            name = inputs[tensor.name]
            model.graph.node.insert(0, onnx.helper.make_node("Identity", [name], [tensor.name]))
            tensor.name = name
    path.write_bytes(model.SerializeToString(deterministic=True))


@contextmanager
def _no_output() -> Iterator[None]:
    """Drop what is written to the standard output: torch's C++ prints the graph of a failure."""
    sys.stdout.flush()
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)


def _write_torchscript(program: Program, path: Path) -> None:
    buffer = io.BytesIO()
    torch.jit.save(program.script, buffer)
    # The same program must give the same file. But torch numbers the frozen class by what it traced
    # before, hashes that into an id, and records source files of this machine for debugging.
    with zipfile.ZipFile(buffer) as saved, zipfile.ZipFile(path, "w") as plain:
        for entry in saved.infolist():
            if not entry.filename.endswith((".debug_pkl", "serialization_id")):
                entry_data = _MANGLED.sub(b"__torch_mangle_0", saved.read(entry))
                name = _MANGLED.sub(b"__torch_mangle_0", entry.filename.encode()).decode()
                plain.writestr(zipfile.ZipInfo(name), entry_data)


def _write_tensorrt(program: Program, path: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "model.onnx"
        _write_onnx(program, source)
        tensorrt.write(source.read_bytes(), path, program.capabilities, program.rows)


_MANGLED = re.compile(rb"__torch_mangle_\d+")

FORMATS = {
    form.name: form
    for form in (
        Format("onnx", "model.onnx", "OnnxPolicy", _write_onnx, runtimes.onnx),
        Format(
            "torchscript",
            "model.pt",
            "TorchScriptPolicy",
            _write_torchscript,
            runtimes.torchscript,
        ),
        Format(
            "tensorrt",
            "model.plan",
            "TensorRTPolicy",
            _write_tensorrt,
            runtimes.tensorrt,
            beside=(engine.FILE_NAME,),
            device="GPU",
        ),
    )
}
"""By name."""

DEFAULT = ("onnx", "torchscript")
"""The formats that are written by default. The first is served."""
