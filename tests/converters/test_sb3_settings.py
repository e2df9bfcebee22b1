"""Whatever settings of Stable-Baselines3 made a network, it acts and is sampled the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3

from converters.artifact import artifact
from converters.importers import sb3_zip
from converters.importers.sb3 import import_sb3
from tests.converters.sb3_actions import distribution
from tests.converters.test_sb3_spaces import act, inputs
from tests.converters.test_sb3_zip import _rewrite, observations

VECTOR = spaces.Box(-1, 1, (5,))
WHEEL = spaces.Box(np.array([-1, -2], np.float32), np.array([1, 3], np.float32))
SDE = {"use_sde": True}
CASES: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
    # algorithm, keywords, policy_kwargs
    (PPO, SDE, {"use_expln": True, "log_std_init": 0.3}),
    (A2C, SDE, {"full_std": False}),
    (PPO, SDE, {"squash_output": True, "use_expln": True, "full_std": False}),
    (A2C, SDE, {"net_arch": [], "log_std_init": -1.5}),
    (PPO, SDE, {"net_arch": {"pi": [4, 3], "vf": []}, "activation_fn": torch.nn.GELU}),
    (SAC, SDE, {"use_expln": True, "net_arch": [6]}),
    (SAC, SDE, {"clip_mean": 0.2, "net_arch": [], "log_std_init": -1.0}),
    (TQC, SDE, {"clip_mean": 0.0, "net_arch": [6, 4], "n_quantiles": 3}),
    (CrossQ, SDE, {"net_arch": {"pi": [6], "qf": [4]}, "use_expln": True}),
    (A2C, {}, {"net_arch": []}),
    (TRPO, {}, {"net_arch": {"pi": [], "vf": [4]}, "ortho_init": False}),
    (PPO, {}, {"net_arch": {"pi": [5, 4, 3], "vf": [7]}, "log_std_init": -2.0}),
    (A2C, {}, {"share_features_extractor": False, "ortho_init": False}),
    (SAC, {}, {"net_arch": []}),
    (SAC, {}, {"net_arch": {"pi": [5], "qf": [3, 2]}}),
    (TQC, {}, {"net_arch": {"pi": [], "qf": [3]}, "n_critics": 1}),
    (TD3, {}, {"net_arch": []}),
    (TD3, {}, {"net_arch": {"pi": [3, 4, 5], "qf": []}}),
    (DQN, {}, {"net_arch": []}),
    (QRDQN, {}, {"net_arch": [], "n_quantiles": 1}),
    (QRDQN, {}, {"net_arch": [8, 8], "n_quantiles": 200}),
    (CrossQ, {}, {"net_arch": {"pi": [], "qf": [3]}}),
    (CrossQ, {}, {"net_arch": {"pi": [4, 4], "qf": [3]}, "batch_norm": False}),
    (ARS, {}, {"net_arch": [], "squash_output": False}),
    (ARS, {}, {"net_arch": [4], "with_bias": False, "activation_fn": torch.nn.Tanh}),
]
GIVEN: Any = {"fields": ["vector"], "vecnormalize": "none"}


def save(folder: Path, kind: Any, keywords: Any, policy_kwargs: Any) -> Any:
    """Save a policy with random weights and statistics, and return the model."""
    env = type("Empty", (gymnasium.Env,), {})()
    env.observation_space = VECTOR
    env.action_space = spaces.Discrete(3) if kind in (DQN, QRDQN) else WHEEL
    options = {"buffer_size": 10} if kind in (SAC, TQC, TD3, CrossQ, DQN, QRDQN) else {}
    given = {"policy_kwargs": policy_kwargs, **keywords, **options}
    model = kind("MlpPolicy", env, seed=3, device="cpu", **given)
    for name, values in model.policy.state_dict().items():
        if values.is_floating_point():
            noise = 0.3 * torch.randn(values.shape)
            values += noise.abs() if name.endswith("ra_var") else noise
    model.save(folder / "policy.zip")
    return model


@pytest.mark.parametrize(("kind", "keywords", "policy_kwargs"), CASES)
def test_acts_and_is_sampled_as_the_library_does(
    kind: Any, keywords: Any, policy_kwargs: Any, tmp_path: Path
) -> None:
    model = save(tmp_path, kind, keywords, policy_kwargs)
    path = tmp_path / "policy.zip"
    source = artifact.load(import_sb3(path, "v1.0.0", tmp_path, **GIVEN))
    batch = observations(VECTOR, 1000)
    expected, _ = model.predict(batch, deterministic=True)
    features, noise = inputs(source, batch)
    found = act(source, features, noise)
    np.testing.assert_allclose(found, expected.reshape(1000, -1), rtol=0, atol=2e-5)
    if kind in (TD3, DQN, QRDQN, ARS):
        assert source.card.signature.noise == "none"
        return
    told = distribution(sb3_zip.read(path), batch)
    with torch.inference_mode():
        mean, std = source.policy.gaussian(torch.from_numpy(features))
    torch.testing.assert_close(mean, told.mean)
    torch.testing.assert_close(std, told.stddev)
    squashed = kind in (SAC, TQC, CrossQ) or policy_kwargs.get("squash_output", False)
    assert source.card.distribution.squash == ("tanh" if squashed else "clip")


def test_an_argument_without_an_effect_is_left_away(tmp_path: Path) -> None:
    """Zips of Stable-Baselines3 before 2.0 may hold `sde_net_arch`, which 1.3 had ended."""
    save(tmp_path, A2C, SDE, {})

    def change(members: dict[str, bytes]) -> None:
        data = json.loads(members["data"])
        data["policy_kwargs"] = {"sde_net_arch": [4], "net_arch": {"pi": [64, 64], "vf": [64, 64]}}
        members["data"] = json.dumps(data).encode()

    changed = _rewrite(tmp_path / "policy.zip", change)
    assert import_sb3(changed, "v1.0.0", tmp_path, **GIVEN).is_dir()
