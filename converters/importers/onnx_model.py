"""ONNX models of policies: opened, checked, and made such that an artifact can hold them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, external_data_helper

from converters.artifact.card import ArtifactError
from converters.artifact.onnx_network import Network, tensors
from converters.artifact.policy import zeros_of
from converters.errors import one_line
from converters.export import onnx_file
from converters.importers import onnx_checks, onnx_state, programs
from converters.importers.declared import Declared
from converters.importers.files import MOST
from converters.importers.interface import teller
from converters.importers.onnx_inputs import FLOATS, Named, Routed, routes, rows_first
from policy_spec.graph import Input
from policy_spec.leaves import leaves

_VALUE = re.compile(r"(?<![a-z])(?<!q[^a-z])(values?|critic|v)(?![a-z])")
_ACTION = re.compile(r"(^|[^a-z])(actions?|actor|mean|mu|loc|logits?|policy|pi)([^a-z]|$)")


def trace(module: Any, taken: Sequence[Input]) -> bytes:
    """Return the ONNX file of a module with an ONNX model in it; see `programs.trace`."""
    example = tuple(zeros_of(taken, 2))
    made = programs.parts(module(*example))
    outputs = [f"output/{index}" for index in range(len(made))]
    return onnx_file.export(module.eval(), example, [one.name for one in taken], outputs)


def open_model(path: Path, data: bytes) -> Network:
    """Open what `read` returned."""
    try:
        return Network(data)
    except ValueError as error:
        raise ArtifactError(
            f"{path}: ONNX Runtime can't open it: export it in float32, with "
            f"opset_version={onnx_file.OPSET}: {error}"
        ) from None


def read(
    data: bytes, declared: Declared, scale_images: bool
) -> tuple[bytes, Declared, Callable[..., Any]]:
    """Check the content of an ONNX file; return one that takes what a program does.

    It is the same where it does so already. It holds what was in other files, has a batch of any
    size, one or two outputs, and the next state behind these. What is left to say of these is
    returned beside it, and what computes the user's own model of a row of what a program takes.
    Raises ArtifactError for a model that can't be a policy's.
    """
    path = declared.source
    model = _parse(path, data)
    before = model.SerializeToString(deterministic=True)
    _load_outside(path, model)
    original = model.SerializeToString()
    onnx_checks.check_operators(path, model)
    held = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in held]
    state = onnx_state.of_inputs(inputs, declared) if declared.state else {}
    seen = [one for place, one in enumerate(inputs) if place not in state]
    onnx_checks.check_inputs(path, seen, model, declared)
    held_outputs = [one.name for one in model.graph.output]
    declared = _keep_outputs(model, declared)
    _prune(model.graph)
    onnx_checks.check_random(path, model)
    found = routes(seen, declared, scale_images)
    if found is None:
        raise ArtifactError(_misfit(path, seen, declared))
    of_seen = iter(found)
    ways = [state.get(place) or next(of_seen) for place in range(len(inputs))]
    ways = [replace(way, plain=way.plain and way.source == at) for at, way in enumerate(ways)]
    seconds = [way.second for way in sorted(state.values(), key=lambda way: way.source)]
    if scale_images and not any(way.scaled for way in ways):
        raise ArtifactError(f"{path}: --scale-images: no input of floats takes a uint8 image")
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    fixed = _free_batch(model, [way.second for way in ways], seconds)
    try:
        if (changed := model.SerializeToString(deterministic=True)) != before:
            data = changed
    except ValueError as error:
        raise ArtifactError(f"{path}: it is larger than 2 GB: {one_line(error)}") from None
    network = open_model(path, data)
    try:
        if not all(way.plain for way in ways):
            data = trace(Routed(network, ways, seconds), declared.taken)
            network = open_model(path, data)
        if fixed:
            _check_freed(network, declared)
    except RuntimeError as error:
        why = f"it does not run on two rows of {programs.shown(declared.taken)}"
        if fixed:
            why = (
                f"it is made for batches of {fixed} alone: export it again with a dynamic batch, "
                "as torch.onnx.export(…, dynamic_axes={'obs': {0: 'batch'}}) does"
            )
        raise ArtifactError(f"{path}: {why}: {one_line(error)}") from None
    for way in ways:
        if way.note:
            teller(declared.said)(way.note)
    names = [one.name for one in inputs]
    kept = [held_outputs.index(one.name) for one in model.graph.output]
    user = Named(open_model(path, original), names, ways, declared)

    def own(*given: Any) -> Any:
        made = user(*(one.expand(fixed or 1, *one.shape[1:]) for one in given))
        made = rows_first([made[place] for place in kept], seconds)
        return made[0][:1] if len(kept) == 1 else tuple(one[:1] for one in made)

    return data, declared, own


def _parse(path: Path, data: bytes) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # whatever a damaged file can provoke in protobuf
        raise ArtifactError(
            f"{path}: no ONNX model ({one_line(error)}): it is damaged, or something else"
        ) from None
    if not model.graph.node or not model.graph.output:
        raise ArtifactError(f"{path}: no ONNX model: it has no graph that gives something")
    opset, latest = onnx_file.opset_of(model), onnx.defs.onnx_opset_version()
    if not onnx_file.OLDEST <= opset <= latest:
        raise ArtifactError(
            f"{path}: its opset is {opset}, and {onnx_file.OLDEST} to {latest} can be served: "
            f"export it again with opset_version={onnx_file.OPSET}"
        )
    return model


def _load_outside(path: Path, model: onnx.ModelProto) -> None:
    """Take the constants that are in other files into the model, and check its form."""
    outside = [one for one in tensors(model) if external_data_helper.uses_external_data(one)]
    size = model.ByteSize()
    try:
        for tensor in outside:
            told = external_data_helper.ExternalDataInfo(tensor)
            rest = (path.parent / told.location).stat().st_size - (told.offset or 0)
            size += max(0, rest) if told.length is None else told.length
        for tensor in outside if size <= MOST else ():
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
    except Exception as error:  # a path may be missing, unreadable, or lead out of the folder
        name = next((one.value for one in tensor.external_data if one.key == "location"), "")
        raise ArtifactError(
            f"{path}: its data file {name} can't be read ({one_line(error)}): copy it beside the "
            "model, as it was exported"
        ) from None
    if max(size, model.ByteSize()) > MOST:
        raise ArtifactError(f"{path}: with its data it is larger than 2 GB, which no file may be")
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # as above
        raise ArtifactError(f"{path}: no valid ONNX model: {one_line(error)}") from None


def _keep_outputs(model: onnx.ModelProto, declared: Declared) -> Declared:
    """Leave away the outputs that are not needed; return what is left to say of the others."""
    path, second = declared.source, declared.second
    places = onnx_state.of_outputs(model.graph.output, declared) if declared.state else []
    state = [model.graph.output[place] for place in places]
    outputs = [one for place, one in enumerate(model.graph.output) if place not in places]
    names = [one.name for one in outputs]
    if len(names) > 2 and second is None:
        raise ArtifactError(
            f"{path}: it has the outputs {', '.join(names)}: say what the second is with "
            "--second-output: std, log-std, or ignore, which takes the first alone"
        )
    first = names[0].lower()
    critic = _VALUE.search(first) and not _ACTION.search(first)
    critic = critic and declared.said.get("distribution") != "q-values"
    action = next((name for name in names[1:] if _ACTION.search(name.lower())), None)
    if critic and action is not None:
        raise ArtifactError(
            f"{path}: its first output is {names[0]}, and the action is taken of the first: export "
            f"it with {action} as the first"
        )
    if len(names) > 1 and second == "ignore":
        declared = replace(declared, said={**declared.said, "second_output": None})
    kept = 1 if second == "ignore" else 2
    if names[kept:]:
        teller(declared.said)(f"left away of its outputs: {', '.join(names[kept:])}")
    onnx_checks.check_outputs(path, outputs[:kept])
    left = [
        onnx.ValueInfoProto.FromString(one.SerializeToString()) for one in (*outputs[:kept], *state)
    ]
    del model.graph.output[:]
    model.graph.output.extend(left)
    return declared


def _prune(graph: onnx.GraphProto) -> None:
    """Take out the nodes that no output needs."""
    needed, kept = {one.name for one in graph.output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed |= onnx_checks.taken(node)
    if len(kept) < len(graph.node):
        nodes = [onnx.NodeProto.FromString(one.SerializeToString()) for one in reversed(kept)]
        del graph.node[:]
        graph.node.extend(nodes)
        held = [one for one in graph.initializer if one.name in needed]
        del graph.initializer[:]
        graph.initializer.extend(held)


def _misfit(path: Path, inputs: Sequence[onnx.ValueInfoProto], declared: Declared) -> str:
    taken = " and ".join(_shown(one) for one in inputs)
    given = programs.shown(declared.taken[: len(declared.taken) - len(declared.state)])
    advice = "say what it takes with --fields or --spec"
    integers = any(one.type.tensor_type.elem_type not in FLOATS for one in inputs)
    if integers and all(one.space.element.floating for one in leaves(declared.observation)):
        advice = "export it with inputs of floats"
    shapes = [one.type.tensor_type.shape.dim for one in inputs]
    if any(not dims or (len(dims) == 1 and dims[0].dim_value > 1) for dims in shapes):
        advice = "export it with a first dimension for the batch"
    return f"{path}: it takes {taken}, and an observation is {given}: {advice}"


def _shown(one: onnx.ValueInfoProto) -> str:
    dims = one.type.tensor_type.shape.dim
    kind = TensorProto.DataType.Name(one.type.tensor_type.elem_type).lower()
    sizes = ", ".join(str(d.dim_value) if d.HasField("dim_value") else "n" for d in dims)
    return f"{one.name} ({sizes}) of {kind}"


def _free_batch(model: onnx.ModelProto, inputs: Sequence[bool], state: Sequence[bool]) -> int:
    """Make a fixed batch one of any size, and return it; 0 if it was none.

    `inputs` says of each input whether the batch is its second dimension, `state` of each of the
    last outputs.
    """
    given = list(zip(model.graph.input, inputs, strict=True))
    actions = len(model.graph.output) - len(state)
    made = zip(model.graph.output, [False] * actions + [*state], strict=True)
    fixed = 0
    for one, second in given:
        dims = one.type.tensor_type.shape.dim
        fixed = max(fixed, dims[second].dim_value if dims else 0)
    if fixed:
        del model.graph.value_info[:]
        for one, second in (*given, *made):
            dims = one.type.tensor_type.shape.dim
            if len(dims) > second and dims[second].dim_value == fixed:
                dims[second].dim_param = "batch"
    return fixed


def _check_freed(network: Network, declared: Declared) -> None:
    """Raise RuntimeError if a model does not take one, two and three rows."""
    for rows in (1, 2, 3):
        first = programs.parts(network(*zeros_of(declared.taken, rows)))[0]
        if len(first) != rows:
            raise RuntimeError(f"for {rows} rows it gives {len(first)}")
