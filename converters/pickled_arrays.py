"""numpy's arrays in a pickle, rebuilt without numpy's own unpickling.

numpy's callables trust what they are given: `ndarray(shape, object, bytes)`, or a dtype whose
pickled flags lie, make objects out of raw bytes, which is a way to run code. Here an array is made
of plain numbers alone, or of a list of what the unpickler made itself.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CODES = re.compile(r"[biuf]\d{1,2}|\?|O8?")


class Dtype:
    """Stands in for `numpy.dtype`: numbers, booleans, or objects."""

    def __init__(self, code: str, *_: Any) -> None:
        """Take a type code such as `f8`; raises ValueError for any other kind of type."""
        if not isinstance(code, str) or not _CODES.fullmatch(code):
            raise ValueError(f"it holds an array of type {code!r}")
        self._code = code
        self._order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take the byte order over, and nothing else."""
        self._order = str(state[1])

    @property
    def objects(self) -> bool:
        """Whether its elements are objects."""
        return self._code.startswith("O")

    def numbers(self, data: Any) -> NDArray[Any]:
        """Give the numbers in `data`, raw bytes; raises ValueError where they are no numbers."""
        if self.objects:
            raise ValueError("it holds objects as raw bytes")
        dtype: np.dtype[Any] = np.dtype(self._code).newbyteorder(self._order)  # type: ignore[arg-type]
        return np.frombuffer(data, dtype)


class Array(np.ndarray):  # type: ignore[type-arg]
    """An array that takes its state only as `Dtype` allows."""

    def __setstate__(self, state: Any) -> None:
        """Take shape, type and elements; raises ValueError where they don't fit each other."""
        _, shape, dtype, fortran, data = state
        if dtype.objects:
            if not isinstance(data, list) or len(data) != int(np.prod(shape)):
                raise ValueError("it holds objects as raw bytes")
            whole = np.empty(len(data), object)
            whole[:] = data
        else:
            whole = dtype.numbers(data)
        shaped = whole.reshape(shape, order="F" if fortran else "C")
        content = data if dtype.objects else shaped.tobytes("F" if fortran else "C")
        super().__setstate__((1, shaped.shape, shaped.dtype, bool(fortran), content))


class ArrayType:
    """Stands in for `numpy.ndarray`, which pickles name and never need to call."""


def reconstruct(kind: Any, *_: Any) -> Array:
    """Stand in for numpy's `_reconstruct`: an empty array, which then takes its state."""
    if kind is not ArrayType:
        raise ValueError("it holds an array of an unknown class")
    return np.ndarray.__new__(Array, (0,), np.int8)


def from_buffer(data: Any, dtype: Dtype, shape: Any, order: str) -> NDArray[Any]:
    """Stand in for numpy's `_frombuffer`."""
    return dtype.numbers(data).reshape(shape, order="F" if order == "F" else "C").copy()


def scalar(dtype: Dtype, data: Any) -> Any:
    """Stand in for numpy's `scalar`: one number."""
    (number,) = dtype.numbers(data)
    return number


def _stand_ins() -> dict[tuple[str, str], Any]:
    found: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): ArrayType,
        ("numpy", "dtype"): Dtype,
    }
    for package in ("numpy.core", "numpy._core"):
        found[f"{package}.multiarray", "_reconstruct"] = reconstruct
        found[f"{package}.multiarray", "scalar"] = scalar
        found[f"{package}.numeric", "_frombuffer"] = from_buffer
    return found


STAND_INS = _stand_ins()
"""By the name that a pickle calls them."""
