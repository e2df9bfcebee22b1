"""The tensors of a policy's models: names, data types and dims, from its signature."""

from typing import Any

import numpy as np
from tritonclient.grpc import model_config_pb2 as pb

from policy_spec.dtypes import DTYPES
from policy_spec.graph import graph_inputs
from policy_spec.leaves import PACKED, Leaf, leaves
from policy_spec.signature import Signature
from policy_spec.spaces import Box

MAX_BATCH_SIZE = 256
"""The most rows in one call of a model, where a row is small."""
BATCH_BYTES = 16 << 20
"""Bytes of the observations in one call; a single row may have more."""

Tensor = tuple[str, Any, tuple[int, ...]]
"""Name, data type, dims without the batch."""

NONCE: Tensor = ("nonce", pb.TYPE_INT64, (1,))
"""An optional input of the Python backend's models, which they give back: see `ECHO`."""
OPTIONAL = ("row", "noise_key", "nonce")
"""Only a caller that joins several requests into one must send the row of each."""
ECHO: Tensor = ("nonce_echo", pb.TYPE_INT64, (1,))
"""The output that is the input `nonce`, zeros without one. In an ensemble it passes both steps. It
has a name of its own, since no tensor of an ensemble can be both an input and an output."""


def _leaf(leaf: Leaf) -> Tensor:
    return (leaf.name, pb.DataType.Value(f"TYPE_{leaf.triton}"), leaf.dims)


def observation_tensors(signature: Signature) -> list[Tensor]:
    """Inputs of the ensembles."""
    return [
        *map(_leaf, leaves(signature.observation_space)),
        ("deterministic", pb.TYPE_BOOL, (1,)),
        ("seed", pb.TYPE_INT64, (1,)),
        ("row", pb.TYPE_INT64, (1,)),
    ]


def packed_tensors(signature: Signature) -> list[Tensor]:
    """Inputs of the fused model."""
    layout = signature.layout
    packed: list[Tensor] = [(PACKED, pb.TYPE_FP32, (layout.width,))] if layout.packed else []
    apart = [*map(_leaf, layout.apart), ("noise_key", pb.TYPE_INT64, (2,))]
    memory = 1 + len(signature.state) if signature.stateful else 0
    return [*packed, *apart, *graph_tensors(signature)[-memory:]] if memory else [*packed, *apart]


def graph_tensors(signature: Signature) -> list[Tensor]:
    """Inputs of the policy models."""
    return [(one.name, _kind(one.dtype), one.shape) for one in graph_inputs(signature)]


def _kind(dtype: str) -> Any:
    return pb.TYPE_BOOL if dtype == "bool" else pb.DataType.Value(f"TYPE_{DTYPES[dtype].triton}")


def max_batch_size(signature: Signature) -> int:
    """Return the most rows in one call: raw observations and memory are at most `BATCH_BYTES`."""
    row = sum(leaf.nbytes for leaf in leaves(signature.observation_space)) + signature.state_bytes
    return max(1, min(MAX_BATCH_SIZE, BATCH_BYTES // row))


def answer_tensors(signature: Signature) -> list[Tensor]:
    """Outputs of the policy models: the control, the policy's own action if that differs, state."""
    state = [(one.next_tensor, _kind(one.dtype), one.shape) for one in signature.state]
    return [*_action_tensors(signature), *state]


def _action_tensors(signature: Signature) -> list[Tensor]:
    space, control = signature.action_space, signature.control
    kind = (
        pb.TYPE_FP32
        if isinstance(space, Box)
        else pb.DataType.Value(f"TYPE_{space.element.triton}")
    )
    own = (kind, (space.size,))
    if control is None:
        return [("action", *own)]
    action: Tensor = ("action", pb.TYPE_FP32, (len(control.names),))
    return [action, ("policy_action", *own)] if signature.has_policy_action else [action]


def zeros_are_valid(signature: Signature) -> bool:
    """Whether a request of zeros alone, as Triton's warm-up sends, is a good one: it samples."""
    found = leaves(signature.observation_space)
    return signature.noise != "none" and all(map(_takes_zeros, found))


def zero_rasters_are_valid(signature: Signature) -> bool:
    """The same of the policy models, whose features and noise may be anything."""
    found = leaves(signature.observation_space)
    return all(_takes_zeros(leaf) for leaf in found if leaf.raster)


def _takes_zeros(leaf: Leaf) -> bool:
    low, high = leaf.space.low, leaf.space.high
    return bool(np.less_equal(low, 0).all() and np.greater_equal(high, 0).all())
