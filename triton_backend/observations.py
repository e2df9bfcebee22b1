"""Observations in requests: each tensor checked against its leaves' bounds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb
from numpy.typing import NDArray

from policy_spec.leaves import PACKED, Layout, Leaf
from policy_spec.validate import takes_images
from triton_backend.joining import Arrays
from triton_backend.preprocessing import Preprocessing

BATCH, SHORT = 256, 64
"""Bounds of rows that have at most SHORT elements are kept for a batch of BATCH rows."""


class Observations:
    """Reads the leaves of an observation that become features, each from a tensor of its own."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        """Take the leaves of a policy."""
        self._preprocessing = preprocessing
        self._tensors = [
            _Tensor(leaf.name, [leaf], 1 + len(leaf.dims)) for leaf in preprocessing.vectors
        ]

    def read(self, request: Any) -> Arrays:
        """Return the tensors of a request, each of shape (n, elements); a raster in its own shape.

        Raises ValueError, which names the leaf, for a value that is not in the space.
        """
        return tuple(tensor.read(request) for tensor in self._tensors)

    def flatten(self, rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Return the flat observations, shape (n, width), of what `read` returned."""
        return self._preprocessing.flatten(rows)


class PackedObservations(Observations):
    """Reads the float32 leaves from one tensor, and the others and rasters each from its own."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        """Take the leaves of a policy."""
        super().__init__(preprocessing)
        layout = Layout.of(preprocessing.observation_space)
        self._tensors = [
            (_Images if takes_images(leaf.space) else _Tensor)(
                leaf.name, [leaf], 1 + len(leaf.dims)
            )
            for leaf in layout.apart
        ]
        self._places: list[tuple[int, slice]] | None = None
        """Where each leaf is: the index of its tensor, and its columns. None: all in one, flat."""
        if layout.packed:
            self._tensors.insert(0, _Tensor(PACKED, [slot.leaf for slot in layout.packed], 2))
        if layout.apart:
            columns = {
                slot.leaf.path: (0, slice(slot.offset, slot.offset + slot.leaf.space.size))
                for slot in layout.packed
            }
            for index, leaf in enumerate(layout.apart, start=bool(layout.packed)):
                columns[leaf.path] = (index, slice(None))
            self._places = [columns[leaf.path] for leaf in preprocessing.vectors]
        rasters = (leaf for leaf in layout.apart if leaf.raster)
        self._rasters = [layout.apart.index(leaf) + bool(layout.packed) for leaf in rasters]

    def rasters(self, rows: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the rasters in what `read` returned, in the card's order."""
        return [rows[index] for index in self._rasters]

    def flatten(self, rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Return the flat observations, shape (n, width), of what `read` returned."""
        if self._places is None:
            return rows[0]
        leaves = [rows[index][:, columns] for index, columns in self._places]
        return self._preprocessing.flatten(leaves)


class _Tensor:
    """One input, with the leaves in it."""

    def __init__(self, name: str, leaves: Sequence[Leaf], dimensions: int) -> None:
        self._name, self._leaves = name, leaves
        self._dimensions, self._raster = dimensions, leaves[0].raster
        limits = [leaf.space.limits() for leaf in leaves]
        sizes = [leaf.space.size for leaf in leaves]
        # numpy compares two full arrays faster than it repeats a short row.
        repeats = BATCH if sum(sizes) <= SHORT else 1
        if self._raster and not any(isinstance(bound, tuple) for bound in limits[0]):
            sizes = [1]  # the same bounds for all elements
        element = leaves[0].space.element
        self._any = not element.floating and limits == [(element.low, element.high)]
        """Whether every value of its type is within the bounds."""
        self._low, self._high = (
            np.tile(np.concatenate(list(map(np.full, sizes, bounds))), (repeats, 1)).astype(
                leaves[0].space.dtype
            )
            for bounds in zip(*limits, strict=True)
        )

    def read(self, request: Any) -> NDArray[Any]:
        """Return the values, shape (n, elements); raise ValueError for a bad one.

        Triton accepts requests without an input if another input is optional, and without rows.
        """
        values = self._values(request)
        if values.ndim != self._dimensions or not values.size:
            raise ValueError(f"{self._name} must have rows")
        flat = values if self._dimensions == 2 else values.reshape(len(values), -1)
        if not self._any:
            rows = len(flat) if len(flat) <= len(self._low) else 1
            above, below = flat >= self._low[:rows], flat <= self._high[:rows]  # NaN is neither
            if np.count_nonzero(above) + np.count_nonzero(below) != 2 * values.size:
                raise ValueError(self._fault(flat, above & below))
        return values if self._raster else flat

    def _values(self, request: Any) -> NDArray[Any]:
        given = pb.get_input_tensor_by_name(request, self._name)
        if given is None:
            raise ValueError(f"{self._name} is missing")
        values: NDArray[Any] = given.as_numpy()
        return values

    def _fault(self, values: NDArray[Any], inside: NDArray[np.bool_]) -> str:
        row, column = np.argwhere(~inside)[0]
        start = 0
        for leaf in self._leaves:
            if column < start + leaf.space.size:
                break
            start += leaf.space.size
        if not np.isfinite(values[row, column]):
            return f"{leaf.name} must be finite"
        low, high = (one[0, column % one.shape[1]] for one in (self._low, self._high))
        return f"{leaf.name} must be from {low:g} to {high:g}, not {values[row, column]:g}"


class _Images(_Tensor):
    """One input of a leaf that may come as encoded images instead, in a tensor of their own."""

    def __init__(self, name: str, leaves: Sequence[Leaf], dimensions: int) -> None:
        super().__init__(name, leaves, dimensions)
        from triton_backend.images import decode  # needs Pillow, which other policies do not

        self._decode = decode

    def _values(self, request: Any) -> NDArray[Any]:
        (leaf,) = self._leaves
        given = pb.get_input_tensor_by_name(request, leaf.encoded)
        if given is None:
            return super()._values(request)
        if pb.get_input_tensor_by_name(request, leaf.name) is not None:
            raise ValueError(f"{leaf.name} and {leaf.encoded} exclude each other")
        return self._decode(leaf, given.as_numpy().ravel())
