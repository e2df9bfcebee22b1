"""Triton's `config.pbtxt` of every model in the repository."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from converters.artifact.versions import triton_version

MAX_BATCH_SIZE = 256
"""The most rows in one call of a model."""

ALIAS = "carla_policy"
"""The ensemble with the steps of the active version."""

FUSED = "fused"
"""Takes the place of a format in a model's name: `carla_policy_fused-vX.Y.Z`."""

ACTION_WIDTH = 3

Tensor = tuple[str, Any, int]
"""Name, data type, width."""

Step = tuple[str, Mapping[str, str], Mapping[str, str]]
"""A model, and for its inputs and outputs: the model's name of a tensor → the ensemble's."""


@dataclass(frozen=True)
class Shape:
    """The sensors of an observation and the width of the noise: fixed for all versions of a model.

    A Triton model has one config for all its versions. So policies of another shape get models of
    their own, with the shape in their names.
    """

    sensors: int
    noise: int

    @property
    def suffix(self) -> str:
        """Empty for five sensors and three actions, else like `_s7a2`."""
        return "" if (self.sensors, self.noise) == (5, 3) else f"_s{self.sensors}a{self.noise}"

    @property
    def preprocess(self) -> str:
        """Name of the preprocessing model."""
        return f"preprocess{self.suffix}"

    def policy(self, form: str) -> str:
        """Name of the policy model of a format."""
        return f"policy_{form}{self.suffix}"

    @property
    def observation(self) -> list[Tensor]:
        """Inputs of the preprocessing model and of the ensembles."""
        return [
            ("speed", pb.TYPE_FP32, 1),
            ("steering", pb.TYPE_FP32, 1),
            ("sensors", pb.TYPE_FP32, self.sensors),
            ("deterministic", pb.TYPE_BOOL, 1),
            ("seed", pb.TYPE_INT64, 1),
            ("row", pb.TYPE_INT64, 1),
        ]

    @property
    def packed(self) -> list[Tensor]:
        """Inputs of the fused model."""
        return [
            ("observation", pb.TYPE_FP32, self.sensors + 2),
            ("noise_key", pb.TYPE_INT64, 2),
        ]

    @property
    def features(self) -> list[Tensor]:
        """Inputs of the policy models."""
        return [
            ("features", pb.TYPE_FP32, self.sensors + 2),
            ("noise", pb.TYPE_FP32, self.noise),
        ]


ACTION: list[Tensor] = [("action", pb.TYPE_FP32, ACTION_WIDTH)]


def ensemble_name(version: str, form: str | None = None) -> str:
    """Name of a version's immutable ensemble, for the served format or for `form`."""
    return f"{ALIAS}-{version}" if form is None else f"{ALIAS}_{form}-{version}"


def preprocess(shape: Shape) -> str:
    """Config of the preprocessing model."""
    return _python_model(shape.preprocess, shape.observation, shape.features)


def policy(shape: Shape, form: str, device: str = "CPU") -> str:
    """Config of the policy model of one format, on the `CPU` or the first `GPU`."""
    return _python_model(shape.policy(form), shape.features, ACTION, device)


def ensemble(
    name: str, version: str, shape: Shape, form: str, parameters: Mapping[str, str]
) -> str:
    """Config of an ensemble whose steps are pinned to `version`."""
    steps = [
        (shape.preprocess, same(shape.observation), same(shape.features)),
        (shape.policy(form), same(shape.features), same(ACTION)),
    ]
    return pipeline(name, version, shape.observation, steps, parameters)


def same(tensors: Sequence[Tensor]) -> dict[str, str]:
    """Map tensors that have the same name in the model and in the ensemble."""
    return {name: name for name, _, _ in tensors}


def pipeline(
    name: str,
    version: str,
    inputs: Sequence[Tensor],
    steps: Sequence[Step],
    parameters: Mapping[str, str],
) -> str:
    """Config of an ensemble from `inputs` to the action, its `steps` pinned to `version`."""
    config = model(name, inputs, ACTION)
    config.platform = "ensemble"
    number = triton_version(version)
    for called, taken, given in steps:
        step = config.ensemble_scheduling.step.add(model_name=called, model_version=number)
        step.input_map.update(taken)
        step.output_map.update(given)
    for key, value in sorted(parameters.items()):
        config.parameters[key].string_value = value
    return text(config)


def fused(version: str, shape: Shape) -> str:
    """Config of the model that does both steps of a version in one process.

    Its inputs are packed, since each tensor costs time. `observation` is speed, steering and the
    sensors. `noise_key` is seed (-1 if deterministic) and row, and may be left out if all rows are
    deterministic. There is no dynamic batcher, which costs a single call 0.1 ms: the gateways join
    their requests before they call.
    """
    config = model(ensemble_name(version, FUSED), shape.packed, ACTION)
    config.backend = "python"
    serve(config, shape.packed, "CPU")
    config.ClearField("dynamic_batching")
    return text(config)


def _python_model(
    name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], device: str = "CPU"
) -> str:
    config = model(name, inputs, outputs)
    config.backend = "python"
    serve(config, inputs, device)
    return text(config)


def serve(config: Any, inputs: Sequence[Tensor], device: str) -> None:
    """Configure how Triton serves a model: all versions, one instance, batches, warmed up."""
    config.version_policy.all.SetInParent()
    group = config.instance_group.add(count=1, kind=f"KIND_{device}")
    if device == "GPU":
        group.gpus.append(0)
    # No queue policy: with one, Triton 2.51 does not give a model its next batch ahead of time, and
    # sometimes notices half a second late that the model is free. The gateway limits the queue.
    config.dynamic_batching.SetInParent()
    for rows in (1, MAX_BATCH_SIZE):
        warmup = config.model_warmup.add(name=f"batch of {rows}", batch_size=rows)
        for tensor, kind, width in inputs:
            warmup.inputs[tensor].CopyFrom(
                pb.ModelWarmup.Input(data_type=kind, dims=[width], zero_data=True)
            )


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


def model(name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Any:
    """Start the config message of a model: its name and tensors."""
    config = pb.ModelConfig(name=name, max_batch_size=MAX_BATCH_SIZE)
    for tensor, kind, width in inputs:
        # Only a caller that joins several requests into one must send the row of each.
        config.input.add(
            name=tensor, data_type=kind, dims=[width], optional=tensor in ("row", "noise_key")
        )
    for tensor, kind, width in outputs:
        config.output.add(name=tensor, data_type=kind, dims=[width])
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
