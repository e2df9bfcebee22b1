"""Hostile pickles are refused by name, and nothing in them runs."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters import pickles


class _Reduce:
    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def _hostile(mark: Path) -> dict[str, bytes]:
    system = _Reduce(os.system, (f"touch {mark}",))
    nested = _Reduce(np.core.multiarray._reconstruct, (np.ndarray, (0,), system))
    opened = _Reduce(open, (str(mark), "w"))
    # A class imported from elsewhere: a module of the attacker's that runs code when imported.
    elsewhere = b"cthis_module_would_run_code\nThing\n."
    return {
        "os.system": pickle.dumps(system),
        "in a list": pickle.dumps([1, {"statistics": [system]}]),
        "nested reduce": pickle.dumps(nested),
        "builtins.open": pickle.dumps(opened, protocol=0),
        "eval": pickle.dumps(_Reduce(eval, (f"open({str(mark)!r}, 'w')",))),
        "getattr": pickle.dumps(_Reduce(getattr, ("text", "upper"))),
        "elsewhere": elsewhere,
        "dotted name": pickle.dumps(None, 4)[:-2] + b"\x8c\x05numpy\x8c\x0ef2py.os.system\x93.",
    }


@pytest.mark.parametrize(
    "name",
    ["os.system", "in a list", "nested reduce", "builtins.open", "eval", "getattr", "elsewhere",
     "dotted name"],
)  # fmt: skip
def test_refused_and_not_run(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    data = _hostile(mark)[name]
    pickletools.dis(data, out=io.StringIO())  # it is a well-formed pickle
    with pytest.raises(pickles.UnsafePickleError, match="not on the list"):
        pickles.load(data)
    assert not mark.exists()


def test_the_same_pickle_does_run_when_opened_carelessly(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    pickle.loads(_hostile(mark)["os.system"])
    assert mark.exists()


@pytest.mark.parametrize("data", [b"", b"not a pickle", pickle.dumps([1, 2])[:-3], b"\x80\x04."])
def test_damaged(data: bytes) -> None:
    with pytest.raises(ValueError, match="pickle"):
        pickles.load(data)


def test_arrays_keep_their_bits() -> None:
    array = np.random.default_rng(0).normal(size=(3, 4))
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickles.load(pickle.dumps(array, protocol)).tobytes() == array.tobytes()


class _Flagless:
    """numpy's dtype of objects, its pickled flags saying that they are plain bytes."""

    def __reduce__(self) -> Any:
        return np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0)


def _forged(dtype: Any, data: Any) -> Any:
    state = (1, (1,), dtype, False, data)
    return _Reduce(np.core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), state)


@pytest.mark.parametrize(
    "forged",
    [
        _Reduce(np.ndarray, ((1,), np.dtype(object), b"12345678")),
        _Reduce(np.ndarray, ((1 << 60,), np.dtype(float))),
        _Reduce(np.core.multiarray.scalar, (np.dtype(object), b"cos\nsystem\n.")),
        _Reduce(np.core.multiarray.scalar, (np.dtype(float), b"1234567")),
        _Reduce(np.core.numeric._frombuffer, (b"12345678", np.dtype(object), (1,), "C")),
        _Reduce(np.core.numeric._frombuffer, (b"12345678", np.dtype(float), (2,), "C")),
        _Reduce(np.dtype, ([("field", object)],)),
        _forged(np.dtype(object), b"12345678"),
        _forged(_Flagless(), b"12345678"),
        _forged(np.dtype(float), b"1234"),
        _forged(np.dtype(object), [1, 2]),
        _forged(np.dtype([("a", "f8")]), b"12345678"),
    ],
)
def test_no_objects_are_made_of_raw_bytes(forged: Any) -> None:
    """What numpy's own unpickling takes, some of it with dangling pointers."""
    with pytest.raises(ValueError, match="it is no readable pickle|not on the list"):
        pickles.load(pickle.dumps(forged))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(6, dtype=">f4"),
        np.array([True, False]),
        np.array(["speed", None], object),
        np.float64(0.1),
        np.int64(7),
        np.array(1.5),
        np.empty((0, 3), np.float32),
    ],
    ids=repr,
)
def test_arrays_and_numbers(array: Any, protocol: int) -> None:
    loaded = pickles.load(pickle.dumps(array, protocol))
    assert loaded.shape == array.shape
    assert loaded.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(loaded, array)
