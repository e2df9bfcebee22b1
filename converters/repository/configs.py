"""Triton's `config.pbtxt` of every model in the repository."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from converters.artifact.versions import triton_version
from converters.repository.tensors import (
    ECHO,
    NONCE,
    OPTIONAL,
    Tensor,
    answer_tensors,
    graph_tensors,
    max_batch_size,
    observation_tensors,
    packed_tensors,
    zero_rasters_are_valid,
    zeros_are_valid,
)
from policy_spec.leaves import leaves
from policy_spec.signature import Signature
from policy_spec.validate import takes_images

ALIAS = "carla_policy"
"""The ensemble with the steps of the active version."""

FUSED = "fused"
"""Takes the place of a format in a model's name: `carla_policy_fused-vX.Y.Z`."""


def preprocess_name(version: str) -> str:
    """Name of a version's preprocessing model."""
    return f"preprocess-{version}"


def policy_name(version: str, form: str) -> str:
    """Name of a version's policy model of a format."""
    return f"policy_{form}-{version}"


def ensemble_name(version: str, form: str | None = None) -> str:
    """Name of a version's immutable ensemble, for the served format or for `form`."""
    return f"{ALIAS}-{version}" if form is None else f"{ALIAS}_{form}-{version}"


@dataclass(frozen=True)
class Backend:
    """One of Triton's backends.

    Attributes:
        name: `backend` in a config.
        platform: the older name of the same, which older servers need.
        file: the model's file.
        parameters: settings; without them ONNX Runtime and PyTorch use all cores for each model.
        numbered: whether a tensor's name ends with its position, as the pytorch backend needs.
    """

    name: str
    platform: str = ""
    file: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    numbered: bool = False

    def rename(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return a model's inputs or outputs with the backend's names."""
        if not self.numbered:
            return list(tensors)
        # The backend reads the position after the first two underscores.
        plain = [(re.sub("_(_+|$)", "-", name), *rest) for name, *rest in tensors]
        return [(f"{name}__{index}", *rest) for index, (name, *rest) in enumerate(plain)]


@dataclass(frozen=True)
class Flavour:
    """One way to serve a repository.

    Attributes:
        preprocessing: the backend of the preprocessing model.
        policies: format → backend of the policy model; another format has the same as above.
        pure: whether the caller passes the noise, because preprocessing does not draw it.
        parameters: of each ensemble.
    """

    preprocessing: Backend
    policies: Mapping[str, Backend] = field(default_factory=dict)
    pure: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)

    def observation(self, signature: Signature) -> list[Tensor]:
        """Inputs of the ensembles."""
        tensors = observation_tensors(signature)
        return tensors[: len(leaves(signature.observation_space))] if self.pure else tensors

    def preprocessed(self, signature: Signature) -> list[Tensor]:
        """Inputs of the preprocessing model: all but rasters, which the policy takes."""
        taken = graph_tensors(signature)
        return [one for one in self.observation(signature) if one not in taken]

    def features(self, signature: Signature) -> list[Tensor]:
        """Outputs of the preprocessing model; without any there is no such model."""
        made = ("features",) if self.pure else ("features", "noise")
        return [one for one in graph_tensors(signature) if one[0] in made]

    def policy(self, form: str) -> Backend:
        """Return the backend of the policy model of one format."""
        return self.policies.get(form, self.preprocessing)


_ONNX = Backend(
    "onnxruntime",
    "onnxruntime_onnx",
    "model.onnx",
    {"intra_op_thread_count": "1", "inter_op_thread_count": "1"},
)
_PYTORCH = Backend(
    "pytorch",
    "pytorch_libtorch",
    "model.pt",
    {"INTRA_OP_THREAD_COUNT": "1", "INTER_OP_THREAD_COUNT": "1"},
    numbered=True,
)

FLAVOURS = {
    "python": Flavour(Backend("python")),
    "native": Flavour(
        _ONNX,
        {"torchscript": _PYTORCH, "tensorrt": Backend("tensorrt", "tensorrt_plan", "model.plan")},
        pure=True,
        parameters={"flavour": "native"},
    ),
}
"""By name: for the Python backend, and for the C++ backends of a stock Triton."""

PYTHON = FLAVOURS["python"]


def preprocess(version: str, signature: Signature, flavour: Flavour = PYTHON) -> str:
    """Config of a version's preprocessing model."""
    name, warm = preprocess_name(version), zeros_are_valid(signature)
    inputs, outputs = flavour.preprocessed(signature), flavour.features(signature)
    rows = max_batch_size(signature)
    return text(_served(name, flavour.preprocessing, inputs, outputs, rows, warm=warm))


def policy(
    version: str,
    signature: Signature,
    form: str,
    device: str = "CPU",
    flavour: Flavour = PYTHON,
    half: bool = False,
) -> str:
    """Config of a version's policy model of one format, on the `CPU` or the first `GPU`.

    If `half`, the Python backend computes in FP16 where it has a GPU.
    """
    name, backend = policy_name(version, form), flavour.policy(form)
    inputs, outputs = graph_tensors(signature), answer_tensors(signature)
    rows, warm = max_batch_size(signature), zero_rasters_are_valid(signature)
    return text(_served(name, backend, inputs, outputs, rows, device, warm=warm, half=half))


def ensemble(
    name: str,
    version: str,
    signature: Signature,
    form: str,
    parameters: Mapping[str, str],
    flavour: Flavour = PYTHON,
) -> str:
    """Config of an ensemble whose steps are those of `version`."""
    observation, features = flavour.observation(signature), flavour.features(signature)
    taken, actions = graph_tensors(signature), answer_tensors(signature)
    known = [*observation, *features]
    inputs, outputs = [*observation, *(one for one in taken if one not in known)], actions
    if not flavour.pure:
        inputs, outputs = [*inputs, NONCE], [*outputs, ECHO]
    config = _model(name, inputs, outputs, max_batch_size(signature))
    config.platform = "ensemble"
    steps: list[tuple[str, list[Tensor], list[Tensor], Callable[..., list[Tensor]]]] = [
        (preprocess_name(version), flavour.preprocessed(signature), features, list[Tensor]),
        (policy_name(version, form), taken, actions, flavour.policy(form).rename),
    ]
    for called, ins, outs, rename in steps if features else steps[1:]:
        number = triton_version(version)
        step = config.ensemble_scheduling.step.add(model_name=called, model_version=number)
        for tensors, mapping in ((ins, step.input_map), (outs, step.output_map)):
            for (ours, *_), (theirs, *_) in zip(tensors, rename(tensors), strict=True):
                mapping[theirs] = ours
    if not flavour.pure:
        first, second = config.ensemble_scheduling.step
        first.input_map["nonce"] = "nonce"
        first.output_map["nonce_echo"] = second.input_map["nonce"] = "preprocess_nonce"
        second.output_map["nonce_echo"] = "nonce_echo"
    for key, value in sorted({**parameters, **flavour.parameters}.items()):
        config.parameters[key].string_value = value
    return text(config)


def fused(version: str, signature: Signature, half: bool = False) -> str:
    """Config of the model that does both steps of a version in one process.

    Its inputs are packed, since each tensor costs time. `observation` has all float32 leaves in the
    card's order, but rasters: see `policy_spec.leaves.Layout`. `noise_key` is seed (-1 if
    deterministic) and row, and may be left out if all rows are deterministic. A leaf that takes
    images comes in its tensor or in `policy_spec.leaves.Leaf.encoded`. There is no dynamic
    batcher, which costs a single call 0.1 ms: the gateways join their requests before they call.
    """
    name, warm = ensemble_name(version, FUSED), zeros_are_valid(signature)
    inputs, outputs = packed_tensors(signature), answer_tensors(signature)
    rows = max_batch_size(signature)
    config = _served(name, Backend("python"), inputs, outputs, rows, warm=warm, half=half)
    config.ClearField("dynamic_batching")
    images = {leaf.name: leaf for leaf in signature.layout.apart if takes_images(leaf.space)}
    for one in config.input:
        one.optional |= one.name in images
    for leaf in images.values():
        config.input.add(name=leaf.encoded, data_type=pb.TYPE_STRING, dims=[1], optional=True)
    return text(config)


def _served(
    name: str,
    backend: Backend,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    most: int,
    device: str = "CPU",
    *,
    warm: bool = True,
    half: bool = False,
) -> Any:
    """Return the config of a model: one instance, batches of at most `most`, warmed with zeros."""
    inputs, outputs = backend.rename(inputs), backend.rename(outputs)
    if backend.name == "python":
        inputs, outputs = [*inputs, NONCE], [*outputs, ECHO]
    config = _model(name, inputs, outputs, most)
    config.backend = backend.name
    config.platform = backend.platform
    config.default_model_filename = backend.file
    config.version_policy.all.SetInParent()
    group = config.instance_group.add(count=1, kind=f"KIND_{device}")
    if device == "GPU":
        group.gpus.append(0)
    # No queue policy: with one, Triton 2.51 does not give a model its next batch ahead of time, and
    # sometimes notices half a second late that the model is free. The gateway limits the queue.
    config.dynamic_batching.SetInParent()
    for rows in sorted({1, most}) if warm else ():
        warmup = config.model_warmup.add(name=f"batch of {rows}", batch_size=rows)
        for tensor, kind, dims in inputs:
            warmup.inputs[tensor].CopyFrom(
                pb.ModelWarmup.Input(data_type=kind, dims=dims, zero_data=True)
            )
    told = {PRECISION: "fp16"} if half and backend.name == "python" else backend.parameters
    for key, value in told.items():
        config.parameters[key].string_value = value
    return config


PRECISION = "precision"
"""The parameter of a version's models that compute in FP16 on a GPU; its value is `fp16`."""


THREADS = "threads"
"""The parameter of a model for the number of threads in one call of its runtime."""


def tune(config: Any, instances: int, threads: int) -> None:
    """Set the number of processes of a model, and the threads of each."""
    config.instance_group[0].count = instances
    config.parameters[THREADS].string_value = str(threads)
    if threads == 1:
        del config.parameters[THREADS]


def threads(config: Any) -> int:
    """Return the threads that `tune` set; the default is 1."""
    return int(config.parameters[THREADS].string_value) if THREADS in config.parameters else 1


def signature(config: Any) -> Signature:
    """Return the signature in the card of an ensemble's config; raise ValueError without one."""
    return Signature.from_card(json.loads(config.parameters["model_card"].string_value))


def _model(name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], most: int) -> Any:
    """Start the config message of a model: its name, its tensors and the rows of a batch."""
    config = pb.ModelConfig(name=name, max_batch_size=most)
    for tensor, kind, dims in inputs:
        config.input.add(name=tensor, data_type=kind, dims=dims, optional=tensor in OPTIONAL)
    for tensor, kind, dims in outputs:
        config.output.add(name=tensor, data_type=kind, dims=dims)
    return config


def text(config: Any) -> str:
    """Return the text of a config's file."""
    return "# Written by `carlarl export`; changes by hand are lost.\n" + str(
        text_format.MessageToString(config, as_utf8=True)
    )


def parse(text: str) -> Any:
    """Read a `config.pbtxt` into a `ModelConfig` message; raise ValueError if it is damaged."""
    try:
        return text_format.Parse(text, pb.ModelConfig())
    except text_format.ParseError as error:
        raise ValueError(str(error)) from None
