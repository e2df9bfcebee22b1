"""Cards, heads, recorded observations and statistics of spaces other than the default policy's."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from converters.artifact import artifact
from converters.artifact.card import CARD, ArtifactError
from converters.export import native, parity
from converters.export.export import export
from converters.repository import configs, repository
from policy_spec.graph import features_width
from policy_spec.leaves import leaves
from policy_spec.noise import NoiseSource
from policy_spec.parsing import parse_space
from tests.converters.policies_of_spaces import make, random_signature
from tests.policy_spec.controls import numbers

SPACE = {
    "type": "Dict",
    "subspaces": {
        "speed": {"type": "Box", "dtype": "float32", "shape": [], "low": 0, "high": 50},
        "lane": {"type": "Discrete", "n": 3, "start": 1},
        "lidar": {"type": "Box", "dtype": "float32", "shape": [2, 2], "low": -1, "high": 1},
    },
}
STEPS = {
    "observation_space": SPACE,
    "action_space": {"type": "Discrete", "n": 3, "start": 5},
    "control": {"table": [{"throttle": 1}, {"brake": 0.5}, {"steer": -1, "reverse": True}]},
}
BOX = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-1, -4], "high": [1, 2]}


def outputs(source: artifact.Artifact, features: np.ndarray, noise: np.ndarray) -> list[np.ndarray]:
    with torch.inference_mode():
        made = source.policy(torch.from_numpy(features), torch.from_numpy(noise))
    return [one.numpy() for one in (made if isinstance(made, tuple) else (made,))]


def test_card_of_the_new_form(tmp_path: Path) -> None:
    folder = make(tmp_path / "v1.0.0", STEPS)
    card = yaml.safe_load((folder / CARD).read_text())
    assert card["observation_space"] == SPACE
    assert not {"sensors", "action", "input_shape", "output_shape"} & card.keys()
    assert artifact.load(folder).card.signature.noise == "gumbel"
    export([folder], tmp_path / "repository")
    told = repository.read_config(tmp_path / "repository", "carla_policy-v1.0.0").parameters
    assert "sensors" not in told
    assert configs.signature(
        repository.read_config(tmp_path / "repository", "carla_policy-v1.0.0")
    ) == (artifact.load(folder).card.signature)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observation_space": {"type": "Box"}}, r"model_card\.yaml: observation_space: dtype is"),
        ({"action_space": {"type": "Dict", "subspaces": {"a": BOX}}}, "action_space: must be one"),
        ({"sensors": 5}, "sensors: is a field of older cards"),
        ({"control": {"table": []}}, r"control\.table: must be a list of 3"),
        ({"distribution": {"std": "parameter"}}, "distribution: std and squash are for a Box"),
        ({"distribution": {"noise": "normal"}}, r"distribution\.noise: of a Discrete must be"),
        ({"state": {"h": {"dtype": "float32", "shape": [4]}}}, "state: a pytorch model is a perc"),
        ({"repeat": 0}, "repeat: must be an integer"),
        ({"description": "\ud800"}, "must be plain"),
    ],
)
def test_bad_cards(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = make(tmp_path / "v1.0.0", STEPS)
    card = yaml.safe_load((folder / CARD).read_text()) | changes
    (folder / CARD).write_text(yaml.safe_dump(card))
    with pytest.raises(ArtifactError, match=message) as told:
        artifact.load(folder)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_space": BOX | {"dtype": "int32"}}, "actions are floats, not int32"),
        ({"action_space": BOX | {"high": "inf"}, "distribution": {"squash": "tanh"}}, "finite"),
        ({"action_space": BOX, "distribution": {"noise": "normal"}}, "must be parameter"),
    ],
)  # fmt: skip
def test_bad_actions(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(tmp_path / "v1.0.0", {"observation_space": SPACE, **changes})


def test_a_table_is_looked_up(tmp_path: Path) -> None:
    source = artifact.load(make(tmp_path / "v1.0.0", STEPS))
    features = np.repeat(parity.probes(source)[0], 20, axis=0)
    noise = np.random.default_rng(0).gumbel(size=(len(features), 3)).astype(np.float32)
    action, own = outputs(source, features, noise)
    rows = np.array([[1, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, -1, 1]], np.float32)
    np.testing.assert_array_equal(action, rows[own[:, 0] - 5])
    assert set(own.ravel()) == {5, 6, 7}, "all were chosen"
    assert source.card.signature.control is not None
    expected = [numbers(source.card.signature.control, one) for one in own.tolist()]
    np.testing.assert_array_equal(action, np.array(expected, np.float32))


def test_scaled_ranges(tmp_path: Path) -> None:
    control = {"layout": ["steer", "acceleration"], "scale": {"acceleration": "linear"}}
    data = {"observation_space": SPACE, "action_space": BOX, "control": control}
    for std in ("none", "parameter", "network"):
        source = artifact.load(
            make(tmp_path / std / "v1.0.0", data | {"distribution": {"std": std}})
        )
        action, own = outputs(source, *parity.probes(source))
        mapping = source.card.signature.control
        assert mapping is not None
        expected = [numbers(mapping, one) for one in own.tolist()]
        np.testing.assert_allclose(action, np.array(expected), atol=1e-6)
        assert source.preprocessing.kind == ("none" if std == "none" else "normal")


@pytest.mark.parametrize(
    ("space", "chances"),
    [
        ({"type": "Discrete", "n": 3}, lambda logits: softmax(logits)),
        ({"type": "MultiDiscrete", "nvec": [2, 3], "start": [0, -1]},
         lambda logits: np.concatenate([softmax(logits[:2]), softmax(logits[2:])])),
        ({"type": "MultiBinary", "n": 4}, lambda logits: 1 / (1 + np.exp(-logits))),
    ],
)  # fmt: skip
def test_samples_have_the_policys_chances(
    tmp_path: Path, space: dict[str, Any], chances: Any
) -> None:
    data = {"observation_space": SPACE, "action_space": space}
    source = artifact.load(make(tmp_path / "v1.0.0", data))
    rows = 20_000
    features = np.repeat(parity.probes(source)[0][:1], rows, axis=0)
    kind, width = source.preprocessing.kind, source.preprocessing.noise
    flags, index = np.zeros(rows, bool), np.arange(rows)
    noise = NoiseSource(kind).draw(flags, np.full(rows, 42), index, width)
    (own,) = outputs(source, features, noise)
    with torch.inference_mode():
        logits = source.policy.gaussian(torch.from_numpy(features[:1]))[0].numpy()
    found = own.mean(axis=0)
    if space["type"] != "MultiBinary":
        values = [range(3)] if space["type"] == "Discrete" else [range(2), range(-1, 2)]
        columns = zip(own.T, values, strict=True)
        found = np.array([(column == one).mean() for column, given in columns for one in given])
    np.testing.assert_allclose(found, chances(logits), atol=0.02)


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum()


def test_a_policy_without_noise_ignores_it(tmp_path: Path) -> None:
    source = artifact.load(make(tmp_path / "v1.0.0", STEPS | {"distribution": {"noise": "none"}}))
    features, noise = parity.probes(source)
    assert noise.shape[1] == 1
    assert not noise.any()
    again = outputs(source, features, noise + 3)
    assert again[0].tobytes() == outputs(source, features, noise)[0].tobytes()


def rows_of_steps(count: int) -> dict[str, np.ndarray]:
    source = np.random.default_rng(0)
    return {
        "speed": source.uniform(0, 50, count),
        "lane": source.integers(1, 4, count),
        "lidar": source.uniform(-1, 1, (count, 2, 2)),
    }


def test_recorded_by_leaf(tmp_path: Path) -> None:
    np.savez(tmp_path / "seen.npz", **rows_of_steps(7))
    folder = make(tmp_path / "v1.0.0", STEPS, observations=tmp_path / "seen.npz")
    source = artifact.load(folder)
    assert [one.shape for one in source.observations] == [(7,), (7,), (7, 2, 2)]
    assert [one.dtype for one in source.observations] == [np.float32, np.int64, np.float32]
    assert (folder / "observations.npz").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lane": np.array([1, 2, 0])}, r"^.*seen\.npz: row 2 of lane is outside of the space"),
        ({"lane": np.array([1, 2, 2.5])}, "row 2 of lane is outside"),
        ({"speed": np.array([1, 60, 2])}, "row 1 of speed is outside"),
        ({"speed": np.array([1, np.nan, 2])}, "speed holds values that are not finite"),
        ({"lidar": np.zeros((3, 4))}, r"the shape of lidar must be \(n, 2, 2\)"),
        ({"lidar": np.zeros((2, 2, 2))}, "the same number of rows"),
        ({"other": np.zeros(3)}, "must hold the arrays speed, lane, lidar"),
        ({"lane": np.array(["a", "b", "c"])}, "no real numbers"),
    ],
)
def test_recorded_outside(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "seen.npz", **(rows_of_steps(3) | changes))
    with pytest.raises(ArtifactError, match=message):
        make(tmp_path / "v1.0.0", STEPS, observations=tmp_path / "seen.npz")


def test_recorded_flat(tmp_path: Path) -> None:
    np.save(tmp_path / "seen.npy", np.zeros((3, 6), np.float32))
    with pytest.raises(ArtifactError, match=r"it needs observations\.npz"):
        make(tmp_path / "v1.0.0", STEPS, observations=tmp_path / "seen.npy")
    np.save(tmp_path / "seen.npy", np.full((3, 2, 3), 0.5))
    space = {"type": "Box", "dtype": "float32", "shape": [2, 3], "low": 0, "high": 1}
    data = STEPS | {"observation_space": space}
    folder = make(tmp_path / "v1.0.0", data, observations=tmp_path / "seen.npy")
    assert artifact.load(folder).observations[0].shape == (3, 2, 3)


def test_statistics_of_a_dict(tmp_path: Path) -> None:
    """Each key is normalised as `VecNormalize` does; others stay, and Discrete is one-hot."""

    class Env(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Dict(
            {
                "speed": gymnasium.spaces.Box(0, 50, ()),
                "lidar": gymnasium.spaces.Box(-1, 1, (2, 2)),
            }
        )
        action_space = gymnasium.spaces.Discrete(3)

    env = VecNormalize(DummyVecEnv([Env]), clip_obs=1.5, norm_obs_keys=["lidar"])
    seen = rows_of_steps(500)
    env.obs_rms["lidar"].update(seen["lidar"])
    folder = make(tmp_path / "v1.0.0", STEPS, pickled=pickle.dumps(env))
    source = artifact.load(folder)
    rows = tuple(
        np.array(seen[leaf.name], leaf.space.dtype) for leaf in source.preprocessing.leaves
    )
    features = parity.features(source, rows)
    normalised = env.normalize_obs(OrderedDict(speed=rows[0], lidar=rows[2]))["lidar"]
    assert features[:, 4:].tobytes() == normalised.reshape(500, 4).astype(np.float32).tobytes()
    np.testing.assert_array_equal(features[:, 0], rows[0])
    np.testing.assert_array_equal(features[:, 1:4], np.eye(3)[rows[1] - 1])
    graph = native.graph(source.preprocessing)
    assert native.features(graph, source.preprocessing, rows).tobytes() == features.tobytes()


def _has_features(seed: int) -> bool:
    """Whether not all leaves are rasters, which are no features."""
    return features_width(parse_space(random_signature(seed)["observation_space"], "space")) > 0


@pytest.mark.parametrize("seed", list(filter(_has_features, range(40))))
def test_the_graph_has_the_bits_of_numpy(tmp_path: Path, seed: int) -> None:
    """The native flavour's preprocessing of random spaces; and its file is read back."""
    source = artifact.load(make(tmp_path / "v1.0.0", random_signature(seed)))
    rows = parity.observations(source)
    graph = native.graph(source.preprocessing)
    expected = parity.features(source, rows)
    assert native.features(graph, source.preprocessing, rows).tobytes() == expected.tobytes()
    assert len(rows) == len(leaves(source.card.signature.observation_space))
    path = tmp_path / "preprocessing.json"
    path.write_text(source.preprocessing.dumps())
    again = type(source.preprocessing).load(path)
    found = zip(again.leaves, rows, strict=True)
    vectors = [values for leaf, values in found if not leaf.raster]
    assert again.features(again.flatten(vectors)).tobytes() == expected.tobytes()


def test_the_native_flavour_is_exported(tmp_path: Path) -> None:
    export([make(tmp_path / "v1.0.0", STEPS)], tmp_path / "native", flavour="native")
    config = repository.read_config(tmp_path / "native", "carla_policy")
    assert [one.name for one in config.input] == ["speed", "lane", "lidar", "noise"]
    assert [one.name for one in config.output] == ["action", "policy_action"]
