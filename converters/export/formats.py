"""The formats of an exported policy, and the runtime that checks and serves each."""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from converters.artifact.card import ModelCard
from converters.artifact.onnx_network import Network
from converters.artifact.policy import Policy, zeros
from converters.export import onnx_file, tensorrt
from converters.export.onnx_file import ExportError
from policy_spec.graph import Input, graph_inputs
from policy_spec.signature import Signature
from triton_backend import engine, runtimes


@dataclass(frozen=True)
class Program:
    """A policy, from which every format is written.

    Attributes:
        module: it, traced into one frozen TorchScript program; as it is, if an ONNX model is in it.
        inputs: what it takes.
        example: rows of zeros for them.
        outputs: names of its outputs.
        rows: the most rows of a batch.
        capabilities: compute capabilities of TensorRT engines; empty for the default ones.
        half: whether those engines compute in FP16.
    """

    module: torch.nn.Module
    inputs: tuple[Input, ...]
    example: tuple[torch.Tensor, ...]
    outputs: tuple[str, ...]
    rows: int
    capabilities: tuple[str, ...] = ()
    half: bool = False

    @classmethod
    def trace(
        cls,
        policy: Policy,
        signature: Signature,
        rows: int,
        capabilities: tuple[str, ...] = (),
        half: bool = False,
    ) -> Program:
        """Trace the `policy` that has this signature.

        Raises ExportError for one that changes an attribute of itself.
        """
        inputs, example = graph_inputs(signature), tuple(zeros(signature, 2))
        module: torch.nn.Module = policy.eval()
        if len(inputs) < len(example):
            example, module = example[1:], _WithoutFeatures(policy).eval()
        if not any(isinstance(one, Network) for one in module.modules()):
            module = _frozen(module, example)
        names = ("action", "policy_action") if policy.two else ("action",)
        outputs = (*names, *(leaf.next_tensor for leaf in signature.state))
        return cls(module, inputs, example, outputs, rows, capabilities, half)


def _frozen(module: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> torch.jit.ScriptModule:
    script = torch.jit.trace(module, example)  # type: ignore[no-untyped-call]
    frozen: torch.jit.ScriptModule = torch.jit.freeze(script)
    graph: Any = frozen.inlined_graph  # its nodes live as long as it does
    if changed := graph.findAllNodes("prim::SetAttr"):
        raise ExportError(
            f"the program changes its own attribute {changed[0].s('name')}, and a policy that "
            "is served remembers nothing but the state that its card declares"
        )
    _forbid_tf32(frozen.graph)
    return frozen


def _forbid_tf32(graph: Any) -> None:
    """Keep convolutions exact on a GPU. A trace says for each whether it may take TF32, and yes."""
    for node in graph.findAllNodes("aten::_convolution"):
        graph.setInsertPoint(node)
        for index in range(12, node.inputsSize()):  # a trace of an older PyTorch has only 12
            node.replaceInput(index, graph.insertConstant(False))


class _WithoutFeatures(torch.nn.Module):
    """A policy that takes no features."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, noise: torch.Tensor, *others: torch.Tensor) -> Any:
        return self.policy(noise[:, :0], noise, *others)


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
        half: opens the path on the GPU in FP16, as `open` does; None for a format without FP16.
            Raises NoGpuError if PyTorch has no GPU.
    """

    name: str
    file: str
    model: str
    write: Callable[[Program, Path], None]
    open: Callable[[Path], runtimes.Runtime]
    beside: tuple[str, ...] = ()
    device: str = "CPU"
    half: Callable[[Path], runtimes.Runtime] | None = None


def _write_onnx(program: Program, path: Path) -> None:
    names = [one.name for one in program.inputs]
    path.write_bytes(onnx_file.export(program.module, program.example, names, program.outputs))


def _write_torchscript(program: Program, path: Path) -> None:
    buffer = io.BytesIO()
    torch.jit.save(program.module, buffer)
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
        tensorrt.write(source.read_bytes(), path, program.capabilities, program.rows, program.half)


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
            half=partial(runtimes.torchscript, gpu=True, half=True),
        ),
        Format(
            "tensorrt",
            "model.plan",
            "TensorRTPolicy",
            _write_tensorrt,
            runtimes.tensorrt,
            beside=(engine.FILE_NAME,),
            device="GPU",
            half=runtimes.tensorrt,
        ),
    )
}
"""By name."""

DEFAULT = ("onnx", "torchscript")
"""The formats that are written by default, as far as they are possible. The first is served."""


def chosen(card: ModelCard, asked: Sequence[str] | None) -> tuple[str, ...]:
    """Return the formats of a policy: those that are `asked` for, or the default ones.

    Raises ExportError if one of them can't be made of it.
    """
    if card.model_type != "onnx":
        return tuple(asked or DEFAULT)
    if "torchscript" in (asked or ()):
        raise ExportError(
            f"{card.version}: it is an ONNX model, of which no TorchScript can be made: export it "
            f"with --version {card.version} --formats onnx"
        )
    return tuple(asked or ("onnx",))
