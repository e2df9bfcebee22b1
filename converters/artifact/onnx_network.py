"""An ONNX model as a network in PyTorch. ONNX Runtime computes it."""

from functools import cached_property
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, external_data_helper
from torch import Tensor, nn

from converters.errors import one_line

NODE = "carlarl::Network"
"""What stands for the model in an ONNX file that is exported from PyTorch, until it is put in."""

_TYPES = {
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    **{f"tensor({name})": getattr(torch, name) for name in ("int64", "int32", "int8", "uint8")},
}


class Model:
    """The bytes of an ONNX file, and what computes it: ONNX Runtime, in one thread on the CPU."""

    def __init__(self, data: bytes) -> None:
        """Open the file; raise ValueError if there is more of it elsewhere, or it can't run."""
        import onnxruntime

        self.data = data
        if any(map(external_data_helper.uses_external_data, tensors(self.proto))):
            raise ValueError("its data is in another file, and must be in the model's own")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what is wrong is raised, too
        try:
            self._session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
        except Exception as error:  # whatever a foreign file can provoke in it
            raise ValueError(one_line(error)) from None
        self.names = [one.name for one in self._session.get_inputs()]
        self.outputs = self._session.get_outputs()

    def __deepcopy__(self, memo: Any) -> "Model":
        """Return the model itself: nothing in it changes."""
        return self

    @property
    def proto(self) -> onnx.ModelProto:
        """A new message of the file."""
        return onnx.load_model_from_string(self.data)

    @cached_property
    def _exact(self) -> Any:
        """ONNX's reference implementation of the model, in float64."""
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(widened(self.proto))

    def run(self, inputs: tuple[NDArray[Any], ...], exactly: bool) -> list[NDArray[Any]]:
        """Return all outputs; `exactly` in float64, which not every model can be computed in.

        Raises RuntimeError.
        """
        given = dict(zip(self.names, inputs, strict=True))
        try:
            with np.errstate(all="ignore"):
                made = (self._exact if exactly else self._session).run(None, given)
        except Exception as error:  # as above
            raise RuntimeError(one_line(error)) from None
        return [np.asarray(one) for one in made]


class _Call(torch.autograd.Function):
    """A model as an operator, which `torch.onnx.export` writes as `NODE`."""

    @staticmethod
    def forward(_: Any, model: Model, exactly: bool, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = tuple(one.contiguous().numpy() for one in inputs)
        return tuple(map(torch.from_numpy, model.run(given, exactly)))

    @staticmethod
    def symbolic(graph: Any, model: Model, exactly: bool, *inputs: Any) -> Any:
        made = graph.op(NODE, *inputs, outputs=len(model.outputs))
        told = zip(made if len(model.outputs) > 1 else [made], model.outputs, strict=True)
        for one, output in told:  # without a type the rows of the example would be the batch
            sizes = [None, *(size if isinstance(size, int) else None for size in output.shape[1:])]
            kind = torch._C.TensorType.get().with_dtype(_TYPES.get(output.type, torch.float32))
            one.setType(kind.with_sizes(sizes))
        return made


class Network(nn.Module):
    """An ONNX model: a tensor for each of its inputs, in order → its output, or a tuple of all.

    After `double()` it computes in float64 what the model computes in float32.
    """

    kind: Tensor

    def __init__(self, data: bytes) -> None:
        """Open the content of an ONNX file; raise ValueError as `Model` does."""
        super().__init__()
        self.model = Model(data)
        self.register_buffer("kind", torch.zeros(()), persistent=False)

    def forward(self, *inputs: Tensor) -> Any:
        """Compute the model."""
        exactly = self.kind.dtype == torch.float64
        made = _Call.apply(self.model, exactly, *inputs)  # type: ignore[no-untyped-call]
        return made[0] if len(made) == 1 else made


def graphs(model: onnx.ModelProto) -> list[Any]:
    """Return everything in a model that has nodes: the graph, graphs in its nodes, functions."""
    found: list[Any] = [model.graph, *model.functions]
    for graph in found:  # which grows
        for node in graph.node:
            for attribute in node.attribute:
                found += [attribute.g] if attribute.HasField("g") else []
                found += attribute.graphs
    return found


def tensors(model: onnx.ModelProto) -> list[TensorProto]:
    """Return all constants of a model."""
    found: list[TensorProto] = []
    sparse: list[onnx.SparseTensorProto] = []
    for graph in graphs(model):
        if isinstance(graph, onnx.GraphProto):
            found += graph.initializer
            sparse += graph.sparse_initializer
        for attribute in (one for node in graph.node for one in node.attribute):
            found += [attribute.t, *attribute.tensors]
            sparse += [attribute.sparse_tensor, *attribute.sparse_tensors]
    return found + [part for one in sparse for part in (one.values, one.indices)]


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with float64 in the place of float32, for the reference implementation."""
    for tensor in tensors(model):
        if tensor.data_type == TensorProto.FLOAT:
            name, values = tensor.name, onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float64), name))
    for graph in graphs(model):
        for attribute in (one for node in graph.node for one in node.attribute):
            if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    return model
