"""Read pickles as data: known classes become plain records, everything else is refused.

A pickle names the functions that the unpickler calls. Here none of them is ever called, not even
numpy's. An object of a known class becomes a `Record` of its attributes; an array becomes an
`Array` of its checked bytes. So neither Stable-Baselines3 nor scikit-learn is imported.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

NOTHING = pickle.dumps(None)
"""The pickle of a policy without a preprocessor."""

_SKLEARN = "sklearn.preprocessing._data"
_SPACES = [
    (package, module, name)
    for package in ("gymnasium", "gym")
    for module, name in (
        ("box", "Box"),
        ("dict", "Dict"),
        ("discrete", "Discrete"),
        ("multi_binary", "MultiBinary"),
        ("multi_discrete", "MultiDiscrete"),
        ("tuple", "Tuple"),
    )
]
_GENERATORS = ("bit_generator", "generator", "randomstate")

RECORDS = {
    ("stable_baselines3.common.vec_env.vec_normalize", "VecNormalize"),
    ("stable_baselines3.common.running_mean_std", "RunningMeanStd"),
    *((f"{package}.spaces.{module}", name) for package, module, name in _SPACES),
    ("sklearn.pipeline", "Pipeline"),
    (_SKLEARN, "StandardScaler"),
    (_SKLEARN, "MinMaxScaler"),
    (_SKLEARN, "MaxAbsScaler"),
    (_SKLEARN, "RobustScaler"),
    ("triton_backend.preprocessing", "Preprocessing"),
    ("gym.utils.seeding", "RandomNumberGenerator._generator_ctor"),
    *(("numpy.random._pickle", f"__{kind}_ctor") for kind in _GENERATORS),
    ("numpy.random._pcg64", "PCG64"),
    ("numpy.random.bit_generator", "SeedSequence"),
    ("numpy.random.bit_generator", "__pyx_unpickle_SeedSequence"),
}


_MOST_TUPLES, _MOST_REUSED = 10_000, 20
"""How many tuples a pickle may build, and how often it may use an earlier one again."""

_NO_TUPLES = {
    opcode.name
    for opcode in pickletools.opcodes
    if opcode.arg is not None and not re.search("PUT|GET|PROTO|FRAME", opcode.name)
} | {"EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "NEWOBJ_EX"}
"""Opcodes after which the top of the stack is no tuple of other objects."""


class UnsafePickleError(ValueError):
    """A pickle holds something that is not on the list of what is safe."""


class Record:
    """The attributes of an object of a known class. The object itself is never created."""

    kind = ""

    def __init__(self, *arguments: Any) -> None:
        """Ignore the arguments: those of known classes carry no statistics."""

    def __setstate__(self, state: Any) -> None:
        """Keep the attributes unchanged."""
        if isinstance(state, dict):
            self.__dict__.update((str(name), value) for name, value in state.items())


class Foreign:
    """Something of a class or function that is not known: its name, and nothing of it runs.

    Each is a class of its own with `module` and `name`; its instances are what a pickle makes with
    it, with the `arguments` that the pickle gives. `by_value`: the pickle holds the class's code.
    """

    module = name = ""
    by_value = False

    def __init__(self, *arguments: Any) -> None:
        """Keep the arguments."""
        self.arguments = arguments

    def __call__(self, *arguments: Any) -> Foreign:
        """Pass as a function, too: return what stands for its answer."""
        return type(self)(*arguments)

    def __setstate__(self, state: Any) -> None:
        """Ignore the state."""


def foreign(module: str, name: str, by_value: bool = False) -> type[Foreign]:
    """Return the class that stands for something that is not known."""
    return type("Foreign", (Foreign,), {"module": module, "name": name, "by_value": by_value})


class Dtype:
    """The type of a number: its name, and its byte order."""

    __slots__ = ("name", "order")

    def __init__(self, name: Any, align: Any = False, copy: Any = True) -> None:
        """Accept plain numbers, and `O8` for arrays of names, which stay lists."""
        known = isinstance(name, str) and re.fullmatch(r"[<>|=]?[fiub][1248]|\|?O8?", name)
        if not known or align or copy not in (0, 1):
            raise UnsafePickleError("it holds an array of a type that is no plain number")
        self.name = name.lstrip("<>|=")
        self.order = name[0] if name[0] in "<>" else "="

    def __setstate__(self, state: Any) -> None:
        """Accept the byte order, if everything else is as usual."""
        flags = 63 if self.name[0] == "O" else 0
        if not isinstance(state, tuple) or state[2:] != (None, None, None, -1, -1, flags):
            raise UnsafePickleError("it holds an array of an unusual type")
        if state[0] != 3 or state[1] not in ("<", ">", "|", "="):
            raise UnsafePickleError("it holds an array of an unusual byte order")
        self.order = "=" if state[1] == "|" else state[1]

    def values(self, data: Any, count: int) -> NDArray[Any]:
        """Return `count` numbers from their bytes; raise ValueError if the length is wrong."""
        dtype = np.dtype(self.order + self.name)
        if dtype.hasobject or not isinstance(data, bytes | bytearray):
            raise UnsafePickleError("it holds an array of objects")
        if len(data) != count * dtype.itemsize:
            raise ValueError("an array's bytes do not fit its shape")
        return np.frombuffer(bytes(data), dtype)


class Array:
    """An array of numbers in `values`, or a list for an array of names."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        """Start empty. The pickle sets the content later."""
        self.values: Any = None

    def __setstate__(self, state: Any) -> None:
        """Make the array from the state that `ndarray.__reduce__` returns."""
        _, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: Any, dtype: Any, shape: Any, order: Any) -> None:
        """Make the array from its bytes; raise ValueError if they do not fit its shape."""
        if not isinstance(dtype, Dtype) or not isinstance(shape, tuple) or order not in ("C", "F"):
            raise UnsafePickleError("it holds an array that numpy did not write")
        if not all(type(length) is int and length >= 0 for length in shape):
            raise UnsafePickleError("it holds an array of an impossible shape")
        if dtype.name[0] == "O" and isinstance(data, list):
            if len(data) != math.prod(shape):
                raise ValueError("an array's elements do not fit its shape")
            self.values = data
            return
        values = dtype.values(data, math.prod(shape))
        self.values = values.reshape(shape, order="F" if order == "F" else "C")


class _Function:
    """A function that a pickle may name. Calling it runs `body`.

    It has no attributes to set, so that a pickle can't change anything outside of itself.
    """

    __slots__ = ("__body",)

    def __init__(self, body: Callable[..., Any]) -> None:
        self.__body = body

    def __call__(self, *arguments: Any) -> Any:
        return self.__body(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise UnsafePickleError("it changes a function")


def _latin1(text: str, encoding: str) -> bytes:
    """Replace `_codecs.encode`, with which old pickles make bytes."""
    if encoding != "latin1":
        raise UnsafePickleError("it encodes text in another way than latin1")
    return text.encode("latin1")


def _ndarray(*arguments: Any) -> Any:
    raise UnsafePickleError("it calls numpy.ndarray itself")


def _reconstruct(kind: Any, shape: Any, code: Any) -> Array:
    return Array()


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, Dtype):
        raise UnsafePickleError("it holds a number that numpy did not write")
    return dtype.values(data, 1)[0]


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Array:
    array = Array()
    array.fill(data, dtype, shape, "C" if order == "K" else order)
    if order == "K":  # a transposed array of numpy 2.3 and newer
        array.values = np.transpose(array.values, axes)
    return array


_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): Dtype,
    ("collections", "OrderedDict"): lambda: {},
    ("_codecs", "encode"): _latin1,
    ("__builtin__", "bytes"): lambda: b"",
}
for _package in ("numpy.core", "numpy._core"):
    _FUNCTIONS[f"{_package}.multiarray", "_reconstruct"] = _reconstruct
    _FUNCTIONS[f"{_package}.multiarray", "scalar"] = _scalar
    _FUNCTIONS[f"{_package}.numeric", "_frombuffer"] = _frombuffer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in RECORDS:
            return type(name, (Record,), {"kind": name})
        if (module, name) in _FUNCTIONS:
            return _Function(_FUNCTIONS[module, name])
        named = ascii(f"{module}.{name}"[:200])[1:-1]
        raise UnsafePickleError(f"it holds {named}, which is not on the list of safe classes")

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickleError("it holds a reference to something outside the file")


class _Lenient(_Unpickler):
    """Reads what is unknown as `Foreign`. Classes that are pickled with their code are, too."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_make_skeleton_class" and module.partition(".")[0] == "cloudpickle":
            return _Function(_skeleton)
        try:
            return super().find_class(module, name)
        except UnsafePickleError:
            return foreign(module, name)


def _skeleton(kind: Any, name: Any, bases: Any, body: Any, *_: Any) -> type[Foreign]:
    return foreign(str(dict(body).get("__module__", "")), str(name), by_value=True)


def _scan(data: bytes) -> None:
    """Refuse a small pickle that would cost the unpickler much memory, time or stack.

    Hashing tuples that are nested again and again takes exponential time.
    """
    memo: dict[Any, bool] = {}
    tuples = reused = 0
    before = ""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name.endswith("PUT") or opcode.name == "MEMOIZE":
            number = int(len(memo) if argument is None else argument)
            if number > len(data):
                raise ValueError(f"it numbers an object {number}")
            memo[number] = before not in _NO_TUPLES
        elif opcode.name.endswith("GET"):
            reused += memo.get(argument, True)
        tuples += opcode.name.startswith("TUPLE")
        if opcode.name == "DUP" or tuples > _MOST_TUPLES or reused > _MOST_REUSED:
            raise UnsafePickleError("it holds more tuples within tuples than any preprocessor has")
        before = opcode.name


def load(data: bytes, *, unknown: bool = False) -> Any:
    """Read a pickle; raise UnsafePickleError if it is unsafe, ValueError if it is damaged.

    With `unknown`, what is not on the list of safe classes is a `Foreign`, whose code never runs.
    """
    try:
        _scan(data)
        return (_Lenient if unknown else _Unpickler)(io.BytesIO(data)).load()
    except UnsafePickleError:
        raise
    except Exception as error:  # a damaged or hostile file can cause any error in the unpickler
        reason = f"{type(error).__name__}: {error}"[:200]
        raise ValueError(f"it is no readable pickle: {reason}") from None
