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
