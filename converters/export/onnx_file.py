"""PyTorch modules → ONNX files. ONNX models in them stay as they are, node by node."""

import io
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import onnx
import torch
from onnx import compose, helper, inliner, version_converter
from torch.onnx.errors import UnsupportedOperatorError

from converters.artifact.onnx_network import NODE, Network, tensors
from converters.errors import ConversionError

OPSET = 18
OLDEST, LATEST = 9, 20
"""The opsets that torch's exporter writes of what is around an ONNX model."""


class ExportError(ConversionError):
    """A policy can't be converted into a format, or not run in it."""


def export(
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> bytes:
    """Return the ONNX file of a module, with rows of its inputs in `example`.

    The first dimension of each tensor is the batch. A `Network` in the module is put in; the file
    then has its opset. Raises ExportError.
    """
    # torch's TorchScript-based exporter. Unlike the newer one it accepts scripted artifacts, always
    # writes the same file, and writes no path of this machine.
    names = [f"/{name}" if name.isdigit() else name for name in inputs]
    network = next((one for one in module.modules() if isinstance(one, Network)), None)
    held = None if network is None else network.model.proto
    opset = OPSET if held is None else opset_of(held)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), _no_output():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                module,
                example,
                buffer,  # type: ignore[arg-type]  # its older exporter takes one
                dynamo=False,
                input_names=names,
                output_names=list(outputs),
                dynamic_axes={name: {0: "batch"} for name in (*names, *outputs)},
                opset_version=min(opset, LATEST),
            )
        except UnsupportedOperatorError as error:
            operator = re.search("aten::[a-z0-9_]+", str(error))
            raise ExportError(
                f"ONNX has no operator for {operator[0] if operator else error}: export it with "
                "--formats torchscript"
            ) from error
    if held is None and names == list(inputs):
        return buffer.getvalue()
    model = onnx.load_model_from_string(buffer.getvalue())
    _rename(model)
    if held is not None:
        if opset > LATEST:
            model = version_converter.convert_version(model, opset)
        _put_in(model, held)
        onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators in a model."""
    found = [int(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx")]
    return found[0] if found else OPSET


def _rename(model: onnx.ModelProto) -> None:
    """Take the `/` off the inputs: the exporter refuses names that are numbers, as in a Tuple."""
    for tensor in model.graph.input:
        if tensor.name.startswith("/"):
            name = tensor.name[1:]
            model.graph.node.insert(0, helper.make_node("Identity", [name], [tensor.name]))
            tensor.name = name


def _put_in(model: onnx.ModelProto, held: onnx.ModelProto) -> None:
    """Replace the node that stands for the ONNX model `held` by its nodes."""
    if held.functions:
        held = inliner.inline_local_functions(held, convert_version=True)
    # It renames the constants of a graph after the graphs in its nodes, which may take them.
    constants = {one.name: f"network/{one.name}" for one in tensors(held) if one.name}
    compose.add_prefix_graph(held.graph, "network/", inplace=True, name_map=constants)
    domain, _, kind = NODE.partition("::")
    nodes = list(model.graph.node)
    (index,) = (i for i, one in enumerate(nodes) if (one.domain, one.op_type) == (domain, kind))
    before = zip(nodes[index].input, held.graph.input, strict=True)
    after = zip(held.graph.output, nodes[index].output, strict=True)
    nodes[index : index + 1] = [
        *(helper.make_node("Identity", [outer], [inner.name]) for outer, inner in before),
        *held.graph.node,
        *(helper.make_node("Identity", [inner.name], [outer]) for inner, outer in after),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(held.graph.initializer)
    model.graph.sparse_initializer.extend(held.graph.sparse_initializer)
    del model.graph.value_info[:]
    kept = [one for one in model.opset_import if one.domain not in (domain, "")]
    had = {one.domain for one in held.opset_import}
    kept = [*held.opset_import, *(one for one in kept if one.domain not in had)]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.ir_version = max(model.ir_version, held.ir_version)


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
