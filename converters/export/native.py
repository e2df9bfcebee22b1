"""The preprocessing of the native flavour: an ONNX graph, for a stock Triton without Python.

A graph draws no noise, so the caller passes it: zeros for the deterministic action. Unlike the
Python flavour, it does not refuse inputs that are not finite.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from triton_backend.preprocessing import Floats, Preprocessing

FILE_NAME = "model.onnx"
OPSET, IR_VERSION = 18, 8

_NODES = {"add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div"}
_OBSERVATION = ("speed", "steering", "sensors")


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
