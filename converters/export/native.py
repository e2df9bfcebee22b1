"""The native flavour: the same ensembles for the C++ backends of a stock Triton, without Python.

Preprocessing is an ONNX graph. A graph draws no noise, so the caller passes it: zeros for the
deterministic action. Unlike the Python flavour, it does not refuse inputs that are not finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from converters.repository import configs
from converters.repository.configs import ACTION, Shape, Tensor
from triton_backend.preprocessing import Floats, Preprocessing

FLAVOUR = "native"
FILE_NAME = "model.onnx"
OPSET, IR_VERSION = 18, 8

_NODES = {"add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div"}
_OBSERVATION = ("speed", "steering", "sensors")


@dataclass(frozen=True)
class Backend:
    """One of Triton's C++ backends.

    Attributes:
        name: `backend` in a config.
        platform: the older name of the same, which older servers need.
        file: the model's file.
        parameters: settings; without them ONNX Runtime and PyTorch use all cores for each model.
        numbered: whether a tensor's name ends with its position, as the pytorch backend needs.
    """

    name: str
    platform: str
    file: str
    parameters: Mapping[str, str]
    numbered: bool = False

    def names(self, tensors: list[Tensor]) -> list[str]:
        """Return the backend's names of a model's inputs or outputs."""
        if not self.numbered:
            return [name for name, _, _ in tensors]
        return [f"{name}__{index}" for index, (name, _, _) in enumerate(tensors)]


BACKENDS = {
    "onnx": Backend(
        "onnxruntime",
        "onnxruntime_onnx",
        "model.onnx",
        {"intra_op_thread_count": "1", "inter_op_thread_count": "1"},
    ),
    "torchscript": Backend(
        "pytorch",
        "pytorch_libtorch",
        "model.pt",
        {"INTRA_OP_THREAD_COUNT": "1", "INTER_OP_THREAD_COUNT": "1"},
        numbered=True,
    ),
    "tensorrt": Backend("tensorrt", "tensorrt_plan", "model.plan", {}),
}
"""By format."""


def graph(preprocessing: Preprocessing) -> bytes:
    """Return the ONNX file of `Preprocessing.features`: speed, steering, sensors → features.

    Inputs are float32 of shapes (n, 1), (n, 1) and (n, sensors), features float32 of shape
    (n, 2 + sensors). The arithmetic is float64, with one node for each operation of numpy, so that
    the bits are the same.
    """
    nodes = [
        helper.make_node("Concat", list(_OBSERVATION), ["observation"], axis=1),
        helper.make_node("Cast", ["observation"], ["step0"], to=TensorProto.DOUBLE),
    ]
    constants = []

    def constant(name: str, values: object) -> str:
        constants.append(numpy_helper.from_array(np.array(values, np.float64), name))
        return name

    last = "step0"
    for index, (operation, values) in enumerate(preprocessing.steps, start=1):
        out = f"step{index}"
        if operation == "clip":
            low, high = (
                constant(f"{out}_{bound}", value)
                for bound, value in zip(("low", "high"), values, strict=True)
            )
            # numpy's own comparisons: Clip, Min and Max may return either of 0.0 and -0.0.
            nodes += [
                helper.make_node("LessOrEqual", [last, low], [f"{out}_below"]),
                helper.make_node("Where", [f"{out}_below", low, last], [f"{out}_raised"]),
                helper.make_node("GreaterOrEqual", [f"{out}_raised", high], [f"{out}_above"]),
                helper.make_node("Where", [f"{out}_above", high, f"{out}_raised"], [out]),
            ]
        else:
            operand = constant(f"{out}_values", [values])
            nodes.append(helper.make_node(_NODES[operation], [last, operand], [out]))
        last = out
    nodes.append(helper.make_node("Cast", [last], ["features"], to=TensorProto.FLOAT))
    widths = {"speed": 1, "steering": 1, "sensors": preprocessing.sensors}
    built = helper.make_graph(
        nodes,
        "preprocess",
        [_value(name, widths[name]) for name in _OBSERVATION],
        [_value("features", preprocessing.width)],
        constants,
    )
    model = helper.make_model(
        built,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="carlarl",
    )
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def features(graph: bytes, observations: Floats) -> Floats:
    """Run a preprocessing graph in ONNX Runtime on observations, shape (n, 2 + sensors)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    speed, steering, sensors = np.split(observations, (1, 2), axis=1)
    given = {"speed": speed, "steering": steering, "sensors": sensors}
    made: Floats = session.run(["features"], given)[0]
    return made


def _value(name: str, width: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])


def preprocess(shape: Shape) -> str:
    """Config of the preprocessing graph."""
    return _model(shape.preprocess, "onnx", _observation(shape), _features(shape), "CPU")


def policy(shape: Shape, form: str, device: str = "CPU") -> str:
    """Config of the policy model of one format, on the `CPU` or the first `GPU`."""
    return _model(shape.policy(form), form, shape.features, ACTION, device)


def ensemble(
    name: str, version: str, shape: Shape, form: str, parameters: Mapping[str, str]
) -> str:
    """Config of an ensemble whose steps are pinned to `version`; noise is one of its inputs."""
    observation, features, backend = _observation(shape), _features(shape), BACKENDS[form]
    steps = [
        (shape.preprocess, configs.same(observation), configs.same(features)),
        (
            shape.policy(form),
            dict(zip(backend.names(shape.features), configs.same(shape.features), strict=True)),
            dict(zip(backend.names(ACTION), configs.same(ACTION), strict=True)),
        ),
    ]
    noise = [tensor for tensor in shape.features if tensor[0] == "noise"]
    told = {**parameters, "flavour": FLAVOUR}
    return configs.pipeline(name, version, [*observation, *noise], steps, told)


def _observation(shape: Shape) -> list[Tensor]:
    return [tensor for tensor in shape.observation if tensor[0] in _OBSERVATION]


def _features(shape: Shape) -> list[Tensor]:
    return [tensor for tensor in shape.features if tensor[0] == "features"]


def _model(name: str, form: str, inputs: list[Tensor], outputs: list[Tensor], device: str) -> str:
    backend = BACKENDS[form]
    taken, given = (
        [
            (called, *rest)
            for called, (_, *rest) in zip(backend.names(tensors), tensors, strict=True)
        ]
        for tensors in (inputs, outputs)
    )
    config = configs.model(name, taken, given)
    config.backend = backend.name
    config.platform = backend.platform
    config.default_model_filename = backend.file
    configs.serve(config, taken, device)
    for key, value in backend.parameters.items():
        config.parameters[key].string_value = value
    return configs.text(config)
