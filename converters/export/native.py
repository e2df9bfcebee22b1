"""The preprocessing of the native flavour: an ONNX graph, for a stock Triton without Python.

A graph draws no noise, so the caller passes it: zeros for the deterministic action. Unlike the
Python flavour, it does not check what it is given.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from converters.artifact.observations import Rows
from policy_spec.graph import choices
from policy_spec.leaves import Leaf
from policy_spec.signature import sensors_of
from triton_backend.preprocessing import Floats, Preprocessing

FILE_NAME = "model.onnx"
OPSET, IR_VERSION = 18, 8

_NODES = {"add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div"}
_NEUTRAL = {"add": -0.0, "subtract": 0.0, "multiply": 1.0, "divide": 1.0}
"""What leaves each number as it is, bit for bit."""


def graph(preprocessing: Preprocessing) -> bytes:
    """Return the ONNX file of `Preprocessing.features`: each leaf's tensor → features.

    There must be features: rasters have none. Inputs have the leaves' types and dims, features are
    float32 of shape (n, width). The arithmetic is float64, with one node for each operation of
    numpy, so that the bits are the same.
    """
    made = _Graph("" if sensors_of(preprocessing.observation_space) is not None else "/")
    last = made.joined(preprocessing)
    for index, (operation, values, *columns) in enumerate(preprocessing.steps, start=1):
        start, stop = columns[0] if columns else (0, preprocessing.width)
        out, whole = f"{made.prefix}step{index}", np.ones(preprocessing.width)
        if operation == "clip":
            low, high = np.array(values)
            if columns:
                low, high = low * whole, high * whole
                for bound, far in ((low, -np.inf), (high, np.inf)):
                    bound[:start] = bound[stop:] = far
            last = made.clip(last, low, high, out)
        else:
            operand = _NEUTRAL[operation] * whole
            operand[start:stop] = values
            constant = made.constant(f"{out}_values", [operand])
            last = made.node(_NODES[operation], [last, constant], out)
    made.node("Cast", [last], "features", to=TensorProto.FLOAT)
    built = helper.make_graph(
        made.nodes,
        "preprocess",
        [_input(leaf) for leaf in preprocessing.vectors],
        [
            helper.make_tensor_value_info(
                "features", TensorProto.FLOAT, ["batch", preprocessing.width]
            )
        ],
        made.constants,
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


class _Graph:
    """Nodes and constants. The names of values begin with `prefix`, which no leaf's name has."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, operation: str, inputs: list[str], out: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operation, inputs, [out], **attributes))
        return out

    def constant(self, name: str, values: object, dtype: type = np.float64) -> str:
        self.constants.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def joined(self, preprocessing: Preprocessing) -> str:
        """Add what makes flat observations in float64, and return their name."""
        leaves = preprocessing.vectors
        if all(leaf.triton == "FP32" and len(leaf.dims) == 1 for leaf in leaves):
            flat, first = [leaf.name for leaf in leaves], f"{self.prefix}step0"
            if len(flat) > 1:
                flat = [self.node("Concat", flat, f"{self.prefix}observation", axis=1)]
            return self.node("Cast", flat, first, to=TensorProto.DOUBLE)
        parts = [self._flat(leaf) for leaf in leaves]
        return self.node("Concat", parts, f"{self.prefix}step0", axis=1)

    def _flat(self, leaf: Leaf) -> str:
        name, branches = f"{self.prefix}{leaf.name}", choices(leaf.space)
        shape = self.constant(f"{name}/shape", [0, leaf.space.size], np.int64)
        last = self.node("Reshape", [leaf.name, shape], f"{name}/flat")
        if branches is not None:
            values = np.concatenate([np.arange(one.start, one.stop) for one in branches])
            branch = np.repeat(np.arange(len(branches)), [len(one) for one in branches])
            taken = self.constant(f"{name}/branch", branch, np.int64)
            wanted = self.constant(f"{name}/values", values, np.int64)
            last = self.node("Gather", [last, taken], f"{name}/taken", axis=1)
            last = self.node("Equal", [last, wanted], f"{name}/code")
        return self.node("Cast", [last], f"{name}/double", to=TensorProto.DOUBLE)

    def clip(self, last: str, low: object, high: object, out: str) -> str:
        """Add numpy's own comparisons: Clip, Min and Max may return either of 0.0 and -0.0."""
        least = self.constant(f"{out}_low", low)
        most = self.constant(f"{out}_high", high)
        below = self.node("LessOrEqual", [last, least], f"{out}_below")
        raised = self.node("Where", [below, least, last], f"{out}_raised")
        above = self.node("GreaterOrEqual", [raised, most], f"{out}_above")
        return self.node("Where", [above, most, raised], out)


def features(graph: bytes, preprocessing: Preprocessing, rows: Rows) -> Floats:
    """Run a preprocessing graph in ONNX Runtime on observations: each leaf's values, (n, …)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    given: dict[str, NDArray[np.generic]] = {
        leaf.name: values.reshape(len(values), *leaf.dims)
        for leaf, values in zip(preprocessing.leaves, rows, strict=True)
        if not leaf.raster
    }
    made: Floats = session.run(["features"], given)[0]
    return made


def _input(leaf: Leaf) -> onnx.ValueInfoProto:
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(leaf.space.dtype))
    return helper.make_tensor_value_info(leaf.name, dtype, ["batch", *leaf.dims])
