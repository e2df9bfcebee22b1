"""What Triton's own callers may send of each kind of leaf: a bad request fails, and it alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.http
from tritonclient.utils import InferenceServerException

from converters.export.export import export
from tests.converters.policies_of_spaces import make
from tests.converters.test_random_spaces import infer
from tests.triton import running_triton

SPACE = {
    "type": "Dict",
    "subspaces": {
        "speed": {"type": "Box", "dtype": "float32", "shape": [], "low": 0, "high": 50},
        "lidar": {"type": "Box", "dtype": "float32", "shape": [2, 2], "low": "-inf", "high": "inf"},
        "far": {"type": "Box", "dtype": "float64", "shape": [1], "low": "-inf", "high": 3},
        "half": {"type": "Box", "dtype": "float16", "shape": [2], "low": -1, "high": 1},
        "map": {"type": "Box", "dtype": "uint8", "shape": [3], "low": 0, "high": 7},
        "lane": {"type": "Discrete", "n": 3, "start": -1},
        "signs": {"type": "MultiDiscrete", "nvec": [2, 4], "start": [0, 2]},
        "doors": {"type": "MultiBinary", "n": 2},
    },
}
GOOD = {
    "speed": np.array([[20]], np.float32),
    "lidar": np.array([[[1, -1e6], [1e6, 0]]], np.float32),
    "far": np.array([[-1e5]]),
    "half": np.array([[-1, 1]], np.float16),
    "map": np.array([[0, 7, 3]], np.uint8),
    "lane": np.array([[-1]]),
    "signs": np.array([[1, 5]]),
    "doors": np.array([[1, 0]], np.int8),
}
BAD = [
    ("speed", [[np.nan]], "speed must be finite"),
    ("speed", [[50.001]], "speed must be from 0 to 50, not 50.001"),
    ("lidar", [[[1, np.inf], [0, 0]]], "lidar must be finite"),
    ("far", [[np.nan]], "far must be finite"),
    ("far", [[3.5]], "far must be from -1.79769e[+]308 to 3, not 3.5"),
    ("half", [[0, -1.5]], "half must be from -1 to 1, not -1.5"),
    ("map", [[0, 8, 0]], "map must be from 0 to 7, not 8"),
    ("lane", [[2]], "lane must be from -1 to 1, not 2"),
    ("signs", [[1, 6]], "signs must be from 2 to 5, not 6"),
    ("doors", [[0, 2]], "doors must be from 0 to 1, not 2"),
]
DETERMINISTIC = {"deterministic": np.array([[True]]), "seed": np.array([[0]])}
PACKED = ("speed", "lidar")


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two policies of the same space: v1.0.0, and v1.1.0 which has no noise."""
    place = tmp_path_factory.mktemp("bad")
    action = {"type": "Discrete", "n": 4}
    data = {"observation_space": SPACE, "action_space": action}
    folders = [
        make(place / "v1.0.0", data),
        make(place / "v1.1.0", data | {"distribution": {"noise": "none"}}),
    ]
    export(folders, place / "repository", ["onnx"])
    models = [path.name for path in (place / "repository").iterdir()]
    with running_triton(place / "repository", models) as (http, _):
        yield f"127.0.0.1:{http}"


def ask(triton: str, model: str, given: dict[str, np.ndarray], **more: np.ndarray) -> np.ndarray:
    tensors = given | (DETERMINISTIC if "fused" not in model else {}) | more
    if "fused" in model:
        flat = [tensors.pop(name).reshape(1, -1) for name in PACKED]
        tensors["observation"] = np.concatenate(flat, axis=1)
    with tritonclient.http.InferenceServerClient(triton) as client:
        action: np.ndarray = infer(tritonclient.http, client, model, tensors).as_numpy("action")
        return action


@pytest.mark.parametrize("model", ["carla_policy-v1.0.0", "carla_policy_fused-v1.0.0"])
@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_a_bad_value_is_named(
    triton: str, model: str, name: str, value: list[object], message: str
) -> None:
    given = GOOD | {name: np.array(value, GOOD[name].dtype)}
    with pytest.raises(InferenceServerException, match=message) as told:
        ask(triton, model, given)
    assert ".py" not in str(told.value)


def test_neighbours_get_their_answers(triton: str) -> None:
    """Requests that Triton joins in the ensemble's steps; every fourth one is bad."""
    expected = ask(triton, "carla_policy-v1.0.0", GOOD)

    def call(index: int) -> np.ndarray | str:
        name, value, _ = BAD[index % len(BAD)]
        changed = {name: np.array(value, GOOD[name].dtype)} if index % 4 == 0 else {}
        try:
            return ask(triton, "carla_policy-v1.0.0", GOOD | changed)
        except InferenceServerException as error:
            return str(error)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(call, range(120)))
    for index, answer in enumerate(answers):
        if index % 4 == 0:
            assert BAD[index % len(BAD)][0] in answer
        else:
            assert np.array_equal(answer, expected)


def test_a_policy_without_noise_is_not_sampled(triton: str) -> None:
    assert ask(triton, "carla_policy-v1.1.0", GOOD).dtype == np.int64
    with pytest.raises(InferenceServerException, match="no noise to sample with"):
        ask(triton, "carla_policy-v1.1.0", GOOD, deterministic=np.array([[False]]))
    with pytest.raises(InferenceServerException, match="no noise to sample with"):
        ask(triton, "carla_policy_fused-v1.1.0", GOOD, noise_key=np.array([[3, 0]]))
    ask(triton, "carla_policy_fused-v1.1.0", GOOD, noise_key=np.array([[-1, 0]]))


def test_a_missing_leaf_is_named(triton: str) -> None:
    """Triton lets it through where an optional input comes in its place."""
    given = {name: value for name, value in GOOD.items() if name != "lane"}
    with pytest.raises(InferenceServerException, match="lane"):
        ask(triton, "carla_policy_fused-v1.0.0", given, nonce=np.array([[3]]))
