"""RecurrentPPO of sb3-contrib drives, once imported, as it does itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from converters.artifact import artifact
from converters.artifact.card import ArtifactError
from converters.artifact.observations import drawn
from converters.importers.sb3 import import_sb3
from tests.converters import driving
from tests.converters.random_env import Random

VECTOR = spaces.Box(-2, 2, (6,))
IMAGE = spaces.Box(0, 255, (36, 40, 3), np.uint8)
PARTS = spaces.Dict({"speed": spaces.Box(0, 30, (2,)), "front": IMAGE, "lane": spaces.Discrete(3)})
WHEEL = spaces.Box(np.array([-1, -2], np.float32), np.array([1, 3], np.float32))
CNN = {"features_extractor_kwargs": {"features_dim": 8}}
MANY = {"features_extractor_kwargs": {"cnn_output_dim": 8}}
SHARED = {"shared_lstm": True, "enable_critic_lstm": False}
CASES: dict[str, tuple[str, Any, Any, dict[str, Any]]] = {
    "vector": ("MlpLstmPolicy", VECTOR, WHEEL, {}),
    "shared": ("MlpLstmPolicy", VECTOR, WHEEL, SHARED),
    "no critic": ("MlpLstmPolicy", VECTOR, WHEEL, {"enable_critic_lstm": False}),
    "two layers": ("MlpLstmPolicy", VECTOR, WHEEL, {"n_lstm_layers": 2}),
    "discrete": ("MlpLstmPolicy", VECTOR, spaces.Discrete(4), {"n_lstm_layers": 2} | SHARED),
    "branches": ("MlpLstmPolicy", VECTOR, spaces.MultiDiscrete([3, 2]), {}),
    "bits": ("MlpLstmPolicy", VECTOR, spaces.MultiBinary(3), {}),
    "sde": ("MlpLstmPolicy", VECTOR, WHEEL, {"use_sde": True}),
    "image": ("CnnLstmPolicy", IMAGE, WHEEL, CNN),
    "image, two layers": ("CnnLstmPolicy", IMAGE, spaces.Discrete(3), CNN | {"n_lstm_layers": 2}),
    "own extractors": ("CnnLstmPolicy", IMAGE, WHEEL, CNN | {"share_features_extractor": False}),
    "Dict": ("MultiInputLstmPolicy", PARTS, WHEEL, MANY | {"enable_critic_lstm": False}),
    "Dict, discrete": ("MultiInputLstmPolicy", PARTS, spaces.Discrete(3), MANY | SHARED),
}  # fmt: skip


def saved(folder: Path, case: str, env: Any = None) -> Any:
    """Save a policy whose memory counts, and return the model."""
    name, seen, action, arguments = CASES[case]
    torch.manual_seed(4)
    more = dict(arguments)
    sde = more.pop("use_sde", False)
    model: Any = RecurrentPPO(
        name,
        env or Random(seen, action),
        n_steps=8,
        batch_size=8,
        n_epochs=1,
        use_sde=sde,
        seed=1,
        device="cpu",
        policy_kwargs={"lstm_hidden_size": 12, "net_arch": [8]} | more,
    )
    if case != "bits":  # which it can't train itself
        model.learn(8)
    with torch.no_grad():
        for weights in model.policy.parameters():
            weights += 0.2 * torch.randn(weights.shape) * (weights.dim() == 2)
    model.save(folder / "policy.zip")
    return model


def imported(folder: Path, **given: Any) -> Path:
    return import_sb3(folder / "policy.zip", "v1.0.0", folder / "artifacts", **given)


def own(model: Any, rows: Any, start: Any, normalize: Any = None) -> tuple[Any, Any]:
    """Return the library's own actions, (steps, elements), and its last state."""
    state, actions = None, []
    for index, first in enumerate(start):
        seen = {name: values[index : index + 1] for name, values in rows.items()}
        batch = seen if isinstance(model.observation_space, spaces.Dict) else seen["observation"]
        if normalize is not None:
            batch = normalize.normalize_obs(batch)
        told = {"state": state, "episode_start": np.array([first]), "deterministic": True}
        action, state = model.predict(batch, **told)
        actions.append(action.ravel())
    return np.array(actions), state


def observed(source: Any, steps: int = driving.STEPS) -> dict[str, Any]:
    space = source.card.signature.observation_space
    names = [leaf.name for leaf in source.preprocessing.leaves]
    return dict(zip(names, drawn(space, steps, 9), strict=True))


def asked(case: str) -> dict[str, Any]:
    """What an import must be told."""
    told = {"fields": ["vector"]} if CASES[case][1] is VECTOR else {}
    return told | ({"vecnormalize": "none"} if case == "bits" else {})


@pytest.mark.parametrize("case", CASES)
def test_drives_as_predict(case: str, tmp_path: Path) -> None:
    model = saved(tmp_path, case)
    source = artifact.load(imported(tmp_path, **asked(case)))
    layers = CASES[case][3].get("n_lstm_layers", 1)
    assert {leaf.name: leaf.shape for leaf in source.card.signature.state} == {
        "h": (layers, 12), "c": (layers, 12),
    }  # fmt: skip
    rows, start = observed(source), driving.starts()
    expected, _ = own(model, rows, start)
    forgetful, _ = own(model, rows, np.ones_like(start))
    assert np.abs(expected - forgetful).max() > 0.01  # the memory counts
    for name, step in driving.opened(source, tmp_path).items():
        found = driving.drive(step, source, tuple(rows.values()), start)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("case", ["vector", "discrete", "branches", "bits", "sde", "Dict"])
def test_samples_as_predict(case: str, tmp_path: Path) -> None:
    """Mean and spread of many samples in the middle of a drive are the library's."""
    model = saved(tmp_path, case)
    source = artifact.load(imported(tmp_path, **asked(case)))
    rows, start = observed(source, 12), np.arange(12) == 0
    *_, before = own(model, {name: one[:-1] for name, one in rows.items()}, start[:-1])
    last = {name: np.repeat(one[-1:], driving.DRAWS, axis=0) for name, one in rows.items()}
    many = tuple(np.repeat(one, driving.DRAWS, axis=1) for one in before)
    batch = last if case == "Dict" else last["observation"]
    torch.manual_seed(0)
    if model.use_sde:
        model.policy.reset_noise(driving.DRAWS)
    theirs = model.predict(batch, many, np.zeros(driving.DRAWS, bool))[0]
    theirs = theirs.reshape(driving.DRAWS, -1)
    step = driving.opened(source, tmp_path)["onnx"]
    ours = driving.samples(step, source, tuple(rows.values()), start)
    for power in (1, 2) if case in ("vector", "sde", "Dict") else (0, 1, 2, 3):
        counted = [one**power if case in ("vector", "sde", "Dict") else one == power
                   for one in (ours, theirs)]  # fmt: skip
        spread = np.sqrt(sum(one.var(axis=0) for one in counted) / driving.DRAWS)
        gap = np.abs(counted[0].mean(axis=0) - counted[1].mean(axis=0))
        assert (gap <= 5 * spread + 1e-6).all(), (power, gap, spread)


def test_behind_vecnormalize(tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([lambda: Random(VECTOR, WHEEL)]))
    model = saved(tmp_path, "vector", env)
    env.save(str(tmp_path / "statistics.pkl"))
    with pytest.raises(ArtifactError, match="it was trained behind VecNormalize: give its stat"):
        imported(tmp_path, fields=["vector"])
    folder = imported(tmp_path, vecnormalize=tmp_path / "statistics.pkl", fields=["vector"])
    source = artifact.load(folder)
    rows, start = observed(source), driving.starts()
    expected, _ = own(model, rows, start, env)
    step = driving.opened(source, tmp_path)["onnx"]
    found = driving.drive(step, source, tuple(rows.values()), start)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_served_by_triton(tmp_path: Path) -> None:
    """Each kind of observation, by the ensemble and the fused model."""
    models, folders = {}, []
    for patch, case in enumerate(("discrete", "image", "Dict")):
        place = tmp_path / str(patch)
        place.mkdir()
        model = saved(place, case)
        policy, version = place / "policy.zip", f"v1.0.{patch}"
        folder = import_sb3(policy, version, tmp_path / "a", **asked(case))
        models[folder.name] = model
        folders.append(folder)
    start = driving.starts(60)
    with driving.triton(folders, tmp_path / "repository") as client:
        for folder in folders:
            rows = observed(artifact.load(folder), 60)
            expected, _ = own(models[folder.name], rows, start)
            for name, found in driving.in_triton(
                client, folder, tuple(rows.values()), start
            ).items():
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=name)
