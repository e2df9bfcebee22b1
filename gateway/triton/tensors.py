"""The input and output tensors of a policy's models, and where an answer holds each output."""

import json
import math
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from typing import Any

from gateway.api.actions import Output
from gateway.api.errors import ImagesRefused
from gateway.api.images import Data
from policy_spec.dtypes import DTYPES
from policy_spec.leaves import PACKED, Layout
from policy_spec.signature import EPISODE_START, StateLeaf

Offsets = dict[str, tuple[int, int]]
"""Output → where its bytes begin and end."""


class Tensors:
    """The inputs and outputs of the models of one signature."""

    def __init__(
        self, layout: Layout, outputs: Sequence[Output], state: Sequence[StateLeaf] = ()
    ) -> None:
        """Take how a row of observations travels, the outputs of an action, and the memory."""
        self.layout = layout
        self.state = tuple(state)
        after = [Output(one.next_tensor, one.dtype, math.prod(one.shape)) for one in state]
        self.outputs = (*outputs, *after)
        self.action_bytes = sum(one.row_bytes for one in outputs)
        self.row_bytes = sum(one.row_bytes for one in self.outputs)
        found = [*(slot.leaf for slot in layout.packed), *layout.apart]
        self._dims = {leaf.name: leaf.dims for leaf in found}
        self._fused_dims = {leaf.name: leaf.dims for leaf in layout.apart}
        self._fused_dims |= {leaf.encoded: (1,) for leaf in layout.apart}
        for dims in (self._dims, self._fused_dims):
            dims |= {leaf.tensor: leaf.shape for leaf in state}
        ends = list(accumulate(one.nbytes for one in state))
        self._parts = [slice(*ends) for ends in zip([0, *ends], ends, strict=False)]
        self._empty = bytes(ends[-1]) if ends else b""
        self._apart = [(leaf.name, leaf.triton, leaf.encoded) for leaf in layout.apart]
        if state:
            memory = [(one.tensor, DTYPES[one.dtype].triton, "") for one in state]
            self._apart += [(EPISODE_START, "BOOL", ""), *memory]
        self._paths = {leaf.name: leaf.path for leaf in layout.apart}

    def apart(self, others: Iterable[Data]) -> list[tuple[str, str, bytes]]:
        """Return name, data type and bytes of what has tensors of its own in any model.

        `others` are the leaves that travel apart, and then what `memory` returns.
        """
        return [
            (encoded, "BYTES", b"".join(data)) if isinstance(data, tuple) else (name, kind, data)
            for (name, kind, encoded), data in zip(self._apart, others, strict=True)
        ]

    def memory(self, states: Sequence[bytes | None]) -> tuple[bytes, ...]:
        """Return the tensors of a memory of so many rows; in a row with None an episode starts.

        Without a memory there are none. A state has all its leaves behind each other.
        """
        if not self.state:
            return ()
        whole = [self._empty if one is None else one for one in states]
        starts = bytes([one is None for one in states])
        if len(whole) == 1:
            return starts, *[whole[0][part] for part in self._parts]
        return starts, *[b"".join([one[part] for one in whole]) for part in self._parts]

    def parted(self, content: bytes) -> tuple[bytes, list[bytes]]:
        """Return of outputs row by row the actions, and the next state of each row."""
        if not self.state:
            return content, []
        starts = range(0, len(content), self.row_bytes)
        actions = b"".join([content[at : at + self.action_bytes] for at in starts])
        return actions, [content[at + self.action_bytes : at + self.row_bytes] for at in starts]

    def refused(self, body: bytes, count: int) -> ImagesRefused | None:
        """Return which images of `count` rows a model can't decode; None for any other answer."""
        try:
            said = json.loads(json.loads(body)["error"])["images"]
            found = [(range(count)[row], self._paths[name], str(why)) for row, name, why in said]
        except (ValueError, LookupError, TypeError):
            return None
        return ImagesRefused(found) if found else None

    def packed(self, data: bytes) -> list[tuple[str, str, bytes]]:
        """Return the tensor of the packed leaves, as a fused model takes it."""
        return [(PACKED, "FP32", data)] if self.layout.width else []

    def unpacked(self, data: bytes, count: int) -> list[tuple[str, str, bytes]]:
        """Return a tensor for each packed leaf, as an ensemble takes them."""
        found = []
        width = len(data) // count
        for slot in self.layout.packed:
            start, size = 4 * slot.offset, slot.leaf.nbytes
            rows = (data[at : at + size] for at in range(start, len(data), width))
            found.append((slot.leaf.name, slot.leaf.triton, b"".join(rows)))
        return found

    def shape(self, name: str, data: bytes, kind: str, count: int, *, fused: bool) -> list[int]:
        """Return the shape of an input from its bytes for `count` rows."""
        dims = (self._fused_dims if fused else self._dims).get(name)
        return [count, *(dims or (len(data) // count // BYTES[kind],))]

    def rows(self, offsets: Offsets, body: bytes, count: int) -> bytes:
        """Return the outputs row by row: all of the first row, then all of the next one."""
        if len(self.outputs) == 1:
            start, end = offsets[self.outputs[0].name]
            return body[start:end]
        parts = []
        for one in self.outputs:
            start, end = offsets[one.name]
            size = one.row_bytes
            parts.append([body[at : at + size] for at in range(start, end, size)])
        return b"".join(chain.from_iterable(zip(*parts, strict=True)))

    def check(self, head: bytes, length: int, count: int) -> None:
        """Check the head of an answer of `length` bytes for `count` rows.

        Raises ValueError where an output is missing, or is of another type or shape.
        """
        offsets = offsets_of(head)
        given = {one["name"]: (one["datatype"], one["shape"]) for one in _outputs(head)}
        for one in self.outputs:
            start, end = offsets[one.name]
            kind, shape = given[one.name]
            whole = end - start == count * one.row_bytes and end <= length
            if kind != one.triton or shape[0] != count or not whole:
                right = f"{one.triton} {[count, one.size]}"
                raise ValueError(f"{one.name} is {kind} {shape}, and must be {right}")


def offsets_of(head: bytes) -> Offsets:
    """Return where the outputs of an answer with this head lie. Raises ValueError and KeyError."""
    outputs = _outputs(head)
    sizes = [one["parameters"]["binary_data_size"] for one in outputs]
    ends = [len(head) + end for end in accumulate(sizes)]
    return {
        one["name"]: (end - size, end) for one, size, end in zip(outputs, sizes, ends, strict=True)
    }


def _outputs(head: bytes) -> list[dict[str, Any]]:
    outputs: list[dict[str, Any]] = json.loads(head)["outputs"]
    return outputs


BYTES = {dtype.triton: dtype.itemsize for dtype in DTYPES.values()} | {"BOOL": 1}
