"""Pickles read as data: known classes become plain records, everything else is refused.

Nothing of a pickle's own choice is ever called. Arrays are rebuilt of plain numbers; an object of a
known class becomes a `Record` of its attributes, so that neither Stable-Baselines3 nor scikit-learn
is imported to read their objects.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from typing import Any, ClassVar

from converters import pickled_arrays

NOTHING = pickle.dumps(None)
"""The pickle of a policy without a preprocessor."""

_SKLEARN = "sklearn.preprocessing._data"

RECORDS = {
    ("stable_baselines3.common.vec_env.vec_normalize", "VecNormalize"),
    ("stable_baselines3.common.running_mean_std", "RunningMeanStd"),
    ("gymnasium.spaces.box", "Box"),
    ("gym.spaces.box", "Box"),
    ("sklearn.pipeline", "Pipeline"),
    (_SKLEARN, "StandardScaler"),
    (_SKLEARN, "MinMaxScaler"),
    (_SKLEARN, "MaxAbsScaler"),
    (_SKLEARN, "RobustScaler"),
    ("triton_backend.preprocessing", "Preprocessing"),
    ("numpy.random._pickle", "__generator_ctor"),
    ("numpy.random._pickle", "__bit_generator_ctor"),
    ("numpy.random._pcg64", "PCG64"),
    ("numpy.random.bit_generator", "SeedSequence"),
    ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"),
}


_DAMAGE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a damaged pickle makes the unpickler raise."""


class UnsafePickleError(ValueError):
    """A pickle that names something that is not on the list."""


class Record:
    """The attributes of an object of a known class, which itself was never made."""

    kind = ""

    def __init__(self, *arguments: Any) -> None:
        """Keep nothing: constructor arguments of known classes carry no statistics."""

    def __setstate__(self, state: Any) -> None:
        """Take the attributes over as they are."""
        if isinstance(state, dict):
            self.__dict__.update(state)


def _latin1(text: str, encoding: str) -> bytes:
    """Stand in for `_codecs.encode`, which old pickles make their bytes with."""
    if encoding != "latin1":
        raise UnsafePickleError(f"it encodes text as {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Stand in for `bytes`, which old pickles call for an empty one."""
    return b""


class _Unpickler(pickle.Unpickler):
    _callables: ClassVar[dict[tuple[str, str], Any]] = {
        **pickled_arrays.STAND_INS,
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _latin1,
        ("__builtin__", "bytes"): _no_bytes,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in RECORDS:
            return type(name, (Record,), {"kind": name})
        if (module, name) in self._callables:
            return self._callables[module, name]
        raise UnsafePickleError(
            f"it holds {module}.{name}, which is not on the list of safe classes"
        )

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickleError("it holds a reference to something outside the file")


def load(data: bytes) -> Any:
    """Read a pickle; raises UnsafePickleError by name, or ValueError where it is damaged."""
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except UnsafePickleError:
        raise
    except _DAMAGE as error:
        raise ValueError(f"it is no readable pickle: {error}") from None
