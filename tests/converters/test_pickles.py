"""Hostile pickles are refused by name, and nothing in them runs."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from converters.artifact import pickles, preprocessor
from policy_spec.signature import driving_space
from tests.converters.conftest import DEFAULT
from triton_backend.preprocessing import Preprocessing


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


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ["f8", ">f4", "i8", "u2", "?"])
def test_arrays_keep_their_bits(protocol: int, kind: str) -> None:
    array = np.random.default_rng(0).normal(size=(3, 4)).astype(kind)
    for given in (array, array.T, array[1:, ::2], array[0]):
        read = pickles.load(pickle.dumps(given, protocol)).values
        assert (read.shape, read.dtype) == (given.shape, given.dtype)
        assert read.tobytes() == given.tobytes()
    number = pickles.load(pickle.dumps(array[0, 0], protocol))
    assert (number, number.dtype) == (array[0, 0], array[0, 0].dtype)


def test_names_of_columns_are_kept_as_a_list() -> None:
    names = np.array(["speed", "steering"], dtype=object)
    assert pickles.load(pickle.dumps(names)).values == ["speed", "steering"]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array", [np.array(1.5), np.empty((0, 3), np.float32), np.zeros((2, 0, 3), order="F")], ids=repr
)
def test_arrays_of_unusual_shapes(array: Any, protocol: int) -> None:
    read = pickles.load(pickle.dumps(array, protocol)).values
    assert (read.shape, read.dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(read, array)


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
    with pytest.raises(ValueError, match="^it (is no readable pickle|holds|calls)"):
        pickles.load(pickle.dumps(forged))


NDARRAY, DTYPE = b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"
OBJECTS = DTYPE + b"(X\x02\x00\x00\x00O8\x89\x88tR"
CORRUPTING = {
    "an array of pointers": NDARRAY + b"(K\x01\x85" + OBJECTS + b"C\x08AAAAAAAAtR.",
    "pointers in a buffer": b"cnumpy.core.numeric\n_frombuffer\n(C\x08AAAAAAAA"
    + OBJECTS
    + b"K\x01\x85X\x01\x00\x00\x00CtR.",
    "a pointer": b"cnumpy.core.multiarray\nscalar\n(" + OBJECTS + b"C\x08AAAAAAAAtR.",
    "structured dtype": DTYPE + b"(X\x05\x00\x00\x00f8,f8\x89\x88tR.",
    "a dtype that is code": DTYPE + b"(X\x05\x00\x00\x00(1,)(\x89\x88tR.",
    "function's defaults": b"c_codecs\nencode\nN}X\x0c\x00\x00\x00__defaults__)s\x86b.",
    "class's attributes": NDARRAY + b"}X\x01\x00\x00\x00aK\x01sb.",
}


@pytest.mark.parametrize("name", CORRUPTING)
def test_what_would_corrupt_memory_is_refused(name: str) -> None:
    pickletools.dis(CORRUPTING[name], out=io.StringIO())
    with pytest.raises(pickles.UnsafePickleError):
        pickles.load(CORRUPTING[name])
    assert pickles.load(pickle.dumps(b"bytes", 2)) == b"bytes"


@pytest.mark.parametrize("shape", [(2,), (0,), (-1,), (2**70, 0, 2**70), (True,), "1"])
def test_an_array_larger_than_its_bytes_is_refused(shape: Any) -> None:
    array = pickle.loads(pickle.dumps(np.zeros(1)))
    kind, arguments, (version, _, *rest) = array.__reduce__()
    data = pickle.dumps(_Reduce(kind, arguments, (version, shape, *rest)))
    with pytest.raises(ValueError, match="it holds an array|it is no readable pickle"):
        pickles.load(data)


def test_an_object_numbered_high_takes_no_memory() -> None:
    with pytest.raises(ValueError, match="it numbers an object"):
        pickles.load(b"\x80\x02Nr\xff\xff\xff\x7f.")


KEY = b"\x80\x04})%sNs."
NESTED = {
    "numbered": KEY % b"".join(b"q%ch%c\x86" % (level, level) for level in range(60)),
    "behind a frame": KEY % b"".join(b"\x95" + bytes(8) + b"\x94h%c\x86" % i for i in range(60)),
    "behind another": KEY % b"".join(b"N0\x94h%c\x86" % level for level in range(60)),
    "doubled": KEY % (b"2\x86" * 60),
    "deep": KEY % (b"\x85" * 1_000_000),
}


@pytest.mark.parametrize("name", NESTED)
def test_tuples_within_tuples_are_refused_before_they_are_hashed(name: str) -> None:
    """As a dictionary's key they would take a hash of years, or all of the stack."""
    with pytest.raises(pickles.UnsafePickleError, match="more tuples within tuples"):
        pickles.load(NESTED[name])


def _preprocessors() -> list[Any]:
    observations = np.random.default_rng(1).uniform(1, 2, (50, 7))

    class Random(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(-200, 200, (7,))
        action_space = gymnasium.spaces.Box(-1, 1, (3,))

    env = VecNormalize(DummyVecEnv([Random]))
    env.obs_rms.update(observations)
    scalers = [MinMaxScaler(clip=True) for _ in range(9)]  # which share one default range
    pipeline = make_pipeline(StandardScaler(), *scalers).fit(observations)
    own = Preprocessing(driving_space(5), 3, (("add", (1.0,) * 7), ("clip", (0.0, 2.0))))
    return [env, pipeline, own]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("index", range(3))
def test_damage_is_a_value_error(index: int, protocol: int) -> None:
    """Whatever bytes change: the file is read, or refused by a ValueError."""
    data = pickle.dumps(_preprocessors()[index], protocol)
    expected = preprocessor.lower(pickles.load(data), DEFAULT)
    assert expected.steps
    generator = np.random.default_rng(protocol)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(700):
        damaged = bytearray(data)
        for position in generator.integers(0, len(data), generator.integers(1, 4)):
            damaged[position] = generator.integers(0, 256)
        try:
            preprocessor.lower(pickles.load(bytes(damaged)), DEFAULT)
            outcomes["read"] += 1
        except ValueError:
            outcomes["refused"] += 1
    assert all(outcomes.values())


def _pipeline(steps: Any) -> Any:
    pipeline = Pipeline([("scale", StandardScaler())])
    pipeline.steps = steps(pipeline) if callable(steps) else steps
    return pickles.load(pickle.dumps(pipeline))


def test_pipelines_that_are_none() -> None:
    with pytest.raises(ValueError, match="or one within itself"):
        preprocessor.lower(_pipeline(lambda itself: [("again", itself)] * 2), DEFAULT)
    for steps in (5, None, [5], [("scale",)], [("scale", 5)], {"scale": 5}):
        with pytest.raises(ValueError, match="Pipeline|unpack|int is no preprocessor"):
            preprocessor.lower(_pipeline(steps), DEFAULT)
    nested: Any = []
    for _ in range(50):
        nested = [nested, nested]
    scaler = StandardScaler().fit(np.eye(7))
    scaler.mean_ = nested
    with pytest.raises(ValueError, match="subtract takes 7 values"):
        preprocessor.lower(pickles.load(pickle.dumps(scaler)), DEFAULT)
