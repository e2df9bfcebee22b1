"""The input and output tensors of a policy's models, and where an answer holds each output."""

import json
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

from gateway.api.actions import Output
from gateway.api.errors import ImagesRefused
from gateway.api.images import Data
from policy_spec.dtypes import DTYPES
from policy_spec.leaves import PACKED, Layout

Offsets = dict[str, tuple[int, int]]
"""Output → where its bytes begin and end."""


class Tensors:
    """The inputs and outputs of the models of one signature."""

    def __init__(self, layout: Layout, outputs: Sequence[Output]) -> None:
        """Take how a row of observations travels, and the outputs that are asked for."""
        self.layout = layout
        self.outputs = tuple(outputs)
        self.row_bytes = sum(one.row_bytes for one in outputs)
        found = [*(slot.leaf for slot in layout.packed), *layout.apart]
        self._dims = {leaf.name: leaf.dims for leaf in found}
        self._fused_dims = {leaf.name: leaf.dims for leaf in layout.apart}
        self._fused_dims |= {leaf.encoded: (1,) for leaf in layout.apart}
        self._paths = {leaf.name: leaf.path for leaf in layout.apart}

    def apart(self, others: Iterable[Data]) -> list[tuple[str, str, bytes]]:
        """Return name, data type and bytes of the leaves with tensors of their own in any model."""
        return [
            (leaf.encoded, "BYTES", b"".join(data))
            if isinstance(data, tuple)
            else (leaf.name, leaf.triton, data)
            for leaf, data in zip(self.layout.apart, others, strict=True)
        ]

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
        parts = [body[slice(*offsets[one.name])] for one in self.outputs]
        sizes = [one.row_bytes for one in self.outputs]
        return b"".join(
            part[size * row : size * (row + 1)]
            for row in range(count)
            for part, size in zip(parts, sizes, strict=True)
        )

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
