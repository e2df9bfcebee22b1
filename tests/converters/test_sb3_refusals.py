"""What an import is told that does not fit the policy is refused in one sentence."""

from __future__ import annotations

import io
import json
import time
import zipfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C

from converters.artifact.card import ArtifactError
from converters.importers.sb3 import import_sb3


def _policy(folder: Path, low: list[float]) -> Path:
    class Toy(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(-1, 1, (7,))
        action_space = gymnasium.spaces.Box(
            np.array(low, np.float32), np.ones(len(low), np.float32)
        )

    A2C("MlpPolicy", Toy(), device="cpu").save(folder / "policy.zip")
    return folder / "policy.zip"


PEDALS = ["throttle", "brake", "steer"]
GIVEN: Any = {"fields": ["vector"], "vecnormalize": "none", "layout": PEDALS}


@pytest.mark.parametrize(
    ("low", "layout", "message"),
    [
        ([-1, 0, -1], PEDALS, "throttle goes from -1.0 to 1.0, the control's from 0.0 to 1.0; say"),
        ([0, -1, -1], PEDALS, "--scale: control.scale.brake: is missing: the policy's brake goes"),
        ([0, 0, 0], PEDALS, "control.scale.steer: is missing"),
        ([0, 0, -1], ["gas", "brake", "steer"], "--layout: control.layout: must be throttle, br"),
        ([0, 0, -1], ["steer", "acceleration"], "has 2 names, and the action's shape is .3."),
    ],
)
def test_a_layout_that_does_not_fit(
    tmp_path: Path, low: list[float], layout: list[str], message: str
) -> None:
    given = {**GIVEN, "layout": layout}
    with pytest.raises(ArtifactError, match=message) as told:
        import_sb3(_policy(tmp_path, low), "v1.0.0", tmp_path / "artifacts", **given)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "artifacts").exists()


def test_a_layout_that_fits(tmp_path: Path) -> None:
    policy = _policy(tmp_path, [-1, 0, 0])
    given = {**GIVEN, "layout": ["steer", "throttle", "brake"]}
    assert import_sb3(policy, "v1.0.0", tmp_path / "artifacts", **given).is_dir()


@pytest.mark.parametrize(
    "metrics", [[1, 2], "fast", 5, [], {1: 2}, {"reward": float("nan")}, {"laps": [{"s": -np.inf}]}]
)
def test_metrics_that_are_none(tmp_path: Path, metrics: Any) -> None:
    policy = _policy(tmp_path, [0, 0, -1])
    with pytest.raises(ArtifactError, match="metrics|must be plain and finite") as told:
        import_sb3(policy, "v1.0.0", tmp_path / "artifacts", metrics=metrics, **GIVEN)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("policy.pth", b"damaged"),
        ("policy.pth", None),
        ("data", b'{"policy_class": {"__module__": "stable_baselines3.common.policies"}}'),
        ("data", b'{"policy_class": {"__module__": []}}'),
        ("data", b"[]"),
    ],
)
def test_a_policy_that_is_damaged(tmp_path: Path, name: str, content: bytes | None) -> None:
    damaged = _rewritten(_policy(tmp_path, [0, 0, -1]), name, content)
    with pytest.raises(ArtifactError, match=r"rewritten\.zip: ") as told:
        import_sb3(damaged, "v1.0.0", tmp_path / "artifacts", **GIVEN)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "artifacts").exists()


def _rewritten(path: Path, name: str, content: bytes | None) -> Path:
    """Write a copy of a zip with other content of the entry `name`; None: without it."""
    copy = path.with_name("rewritten.zip")
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(copy, "w") as to:
        for entry in whole.namelist():
            held = content if entry == name else whole.read(entry)
            if held is not None:
                to.writestr(entry, held)
    return copy


@pytest.mark.parametrize("layers", [[7000, 7000, 7000], [1] * 200_000, {"pi": [8], "vf": [9**9]}])
def test_layers_that_the_weights_do_not_have(tmp_path: Path, layers: Any) -> None:
    """They are refused before they are made, which takes seconds to hours."""
    path = _policy(tmp_path, [0, 0, -1])
    with zipfile.ZipFile(path) as whole:
        data = json.loads(whole.read("data")) | {"policy_kwargs": {"net_arch": layers}}
    rewritten = _rewritten(path, "data", json.dumps(data).encode())
    begin = time.process_time()
    with pytest.raises(ArtifactError, match="far more weights than its policy.pth|can't build it"):
        import_sb3(rewritten, "v1.0.0", tmp_path / "artifacts", **GIVEN)
    assert time.process_time() - begin < 3


def test_weights_with_code(tmp_path: Path) -> None:
    """Torch's advice, to load them in another way, would run the code."""
    held = io.BytesIO()
    torch.save({"log_std": Path("x")}, held)
    rewritten = _rewritten(_policy(tmp_path, [0, 0, -1]), "policy.pth", held.getvalue())
    with pytest.raises(ArtifactError, match="or holds objects beside weights, which is") as told:
        import_sb3(rewritten, "v1.0.0", tmp_path / "artifacts", **GIVEN)
    assert "weights_only" not in str(told.value)


@pytest.mark.parametrize("module", ["", "../x", "a\nb", "a.", "my-nets", "a:B", "a/b"])
def test_trust_in_what_is_no_module(tmp_path: Path, module: str) -> None:
    path = _policy(tmp_path, [0, 0, -1])
    with pytest.raises(ArtifactError, match="--trust .* must be a module as Python imp") as told:
        import_sb3(path, "v1.0.0", tmp_path / "artifacts", trust=[module], **GIVEN)
    assert "\n" not in str(told.value)


def test_a_scalar_which_the_library_can_not_see(tmp_path: Path) -> None:
    class Scalar(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(-1, 1, ())
        action_space = gymnasium.spaces.Discrete(2)

    A2C("MlpPolicy", Scalar(), device="cpu").save(tmp_path / "policy.zip")
    with pytest.raises(ArtifactError, match="its network can't be computed: IndexError") as told:
        import_sb3(tmp_path / "policy.zip", "v1.0.0", tmp_path / "artifacts", vecnormalize="none")
    assert "\n" not in str(told.value)
