"""What an ONNX model must not have or do, to be a policy's."""

import re
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, numpy_helper

from converters.artifact.card import ArtifactError
from converters.artifact.onnx_network import graphs, tensors
from converters.importers.declared import Declared
from converters.importers.onnx_inputs import FLOATS, named

RANDOM = {"Bernoulli", "Multinomial"}
"""Operators that draw numbers, beside those whose name begins with `Random`."""
MOST_STEPS = 1_000_000
"""Steps of a Loop that says how many it has."""
_OWN = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
_RECURRENT = {"LSTM", "GRU", "RNN"}
_STATE = re.compile(r"(^|[^a-z])([hc][x0n]?|states?|hidden|memory|recurrent)([^a-z]|$)")


def _operators(model: onnx.ModelProto) -> list[Any]:
    return [node for graph in graphs(model) for node in graph.node]


def check_operators(path: Path, model: onnx.ModelProto) -> None:
    """Raise ArtifactError for an operator that ONNX Runtime does not have."""
    own = _OWN | {one.domain for one in model.functions}
    for node in _operators(model):
        if node.domain not in own:
            raise ArtifactError(
                f"{path}: it has the operator {node.op_type} of {node.domain}, which ONNX Runtime "
                "does not have: export the policy without operators of your own"
            )


def check_random(path: Path, model: onnx.ModelProto) -> None:
    """Raise ArtifactError for what draws random numbers, or would never end."""
    known = _constants(model)
    for node in _operators(model):
        training = node.op_type == "Dropout" and "".join(node.input[2:])
        if training and known.get(training) != 0:
            raise ArtifactError(
                f"{path}: it drops numbers at random (Dropout in training mode): call eval() on "
                "the policy, and export it again"
            )
        if node.op_type == "Loop" and known.get(node.input[0], 0) > MOST_STEPS:
            raise ArtifactError(
                f"{path}: it has a Loop of {known[node.input[0]]} steps, and {MOST_STEPS} are the "
                "most: export the policy without it"
            )
        if node.op_type.startswith("Random") or node.op_type in RANDOM:
            raise ArtifactError(
                f"{path}: it draws random numbers ({node.op_type}): export what gives the action's "
                "mean, or logits, for sampling is done by the server"
            )


def _constants(model: onnx.ModelProto) -> dict[str, int]:
    """Return the constants of a model that are one integer or truth value."""
    kinds = {TensorProto.INT64, TensorProto.BOOL}
    nodes = [node for node in _operators(model) if node.op_type == "Constant"]
    found = [(node.output[0], one.t) for node in nodes for one in node.attribute]
    found += [(one.name, one) for one in tensors(model) if one.name]
    alone = [(name, one) for name, one in found if one.data_type in kinds and prod(one.dims) == 1]
    return {name: int(numpy_helper.to_array(one).item()) for name, one in alone}


def check_outputs(path: Path, outputs: Sequence[onnx.ValueInfoProto]) -> None:
    """Raise ArtifactError for an output of an action that is not of floats."""
    for one in outputs:
        kind = one.type.tensor_type.elem_type if one.type.HasField("tensor_type") else 0
        if kind not in FLOATS:
            shown = TensorProto.DataType.Name(kind).lower() if kind else "no tensor"
            raise ArtifactError(
                f"{path}: its output {one.name} is {shown}: it must give floats, the mean of an "
                "action or the logits of a discrete one, not the action that was chosen"
            )


def check_inputs(
    path: Path, inputs: Sequence[onnx.ValueInfoProto], model: Any, declared: Declared
) -> None:
    """Raise ArtifactError for an input without a shape, or of a memory."""
    for one in inputs:
        if not one.type.HasField("tensor_type") or not one.type.tensor_type.HasField("shape"):
            raise ArtifactError(f"{path}: its input {one.name} is no tensor of a known shape")
    states = [one for one in inputs if _is_memory(one, model, declared)]
    if states:
        shown = ", ".join(sorted(one.name for one in inputs))
        raise ArtifactError(
            f"{path}: its inputs are {shown}, as of a policy with a memory: declare its state in "
            "--spec, like state: {h: {dtype: float32, shape: [1, 64]}}"
        )


def _is_memory(one: onnx.ValueInfoProto, model: onnx.ModelProto, declared: Declared) -> bool:
    """Whether an input is the state of a recurrent layer, or comes out again."""
    recurrent = [node for node in _operators(model) if node.op_type in _RECURRENT]
    initial = {name for node in recurrent for name in node.input[5:]}
    if named(one.name, declared) is not None:
        return False
    if one.name in initial or not _STATE.search(one.name.lower()):
        return one.name in initial
    for node in reversed(model.graph.node):
        initial |= taken(node) if (initial - {""}).intersection(node.output) else set()
    again = (out for out in model.graph.output if _STATE.search(out.name.lower()))
    return one.name in initial or any(_alike(one, out) for out in again)


def _alike(one: onnx.ValueInfoProto, other: onnx.ValueInfoProto) -> bool:
    """Whether two tensors may have the same shape."""
    first, second = (
        [d.dim_value for d in part.type.tensor_type.shape.dim] for part in (one, other)
    )
    sizes = zip(first, second, strict=False)
    return len(first) == len(second) and all(a == b or 0 in (a, b) for a, b in sizes)


def taken(node: onnx.NodeProto) -> set[str]:
    """Return the names that a node takes; graphs in it may take any of outside."""
    found = set(node.input)
    for attribute in node.attribute:
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            found |= {one.name for one in graph.output}
            found = found.union(*map(taken, graph.node))
    return found
