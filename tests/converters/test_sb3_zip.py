"""The zips in `sb3_files`, saved by other versions, act as they did where they were saved."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO, SAC

from converters.artifact.card import ArtifactError
from converters.importers import sb3_spaces, sb3_zip
from policy_spec.graph import feature_columns
from tests.converters.sb3_actions import act, actor_and_images, distribution, inputs

FOLDER = Path(__file__).parent / "sb3_files"
WHOLE = sorted(path.stem for path in FOLDER.glob("*.zip") if "own-extractor" not in path.stem)
MASKED = [name for name in WHOLE if name.startswith("maskableppo")]
SAVED = [name for name in WHOLE if name not in MASKED]
GAUSSIAN = [name for name in SAVED if name[:3] in ("ppo", "trp", "sac", "tqc", "cro")]


@cache
def saved_policy(name: str) -> Any:
    return sb3_zip.read(FOLDER / f"{name}.zip")


def observations(space: Any, count: int) -> Any:
    space.seed(5)
    rows = [space.sample() for _ in range(count)]
    if isinstance(space, spaces.Dict):
        return {key: np.array([row[key] for row in rows]) for key in space.spaces}
    return np.array(rows)


def system(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        lines = archive.read("system_info.txt").decode().splitlines()
    return dict(line.lstrip("- ").split(": ", 1) for line in lines if ": " in line)


def test_there_are_files_of_every_algorithm_and_both_numpy() -> None:
    read = map(saved_policy, WHOLE)
    # test_sb3_recurrent.py makes those of the other one.
    assert {saved.algorithm for saved in read} == set(sb3_zip.ALGORITHMS) - {"RecurrentPPO"}
    told = [system(FOLDER / f"{name}.zip") for name in SAVED]
    assert {one["Numpy"][0] for one in told} == {"1", "2"}
    assert {one["Python"][:4] for one in told} == {"3.8.", "3.11", "3.13"}
    assert {one["Stable-Baselines3"][:3] for one in told} == {"1.6", "1.8", "2.6", "2.9"}


@pytest.mark.parametrize("name", SAVED)
def test_acts_as_where_it_was_saved(name: str) -> None:
    saved = saved_policy(name)
    assert saved.algorithm.lower() == name.partition("-")[0]
    seen = dict(np.load(FOLDER / f"{name}.npz"))
    expected = seen.pop("actions")
    batch: Any = seen.get("observation", seen)
    actions, _ = saved.policy.predict(batch, deterministic=True)
    np.testing.assert_allclose(actions, expected, rtol=0, atol=5e-6)
    actor, images = actor_and_images(saved)
    found = act(actor, saved.action_space, inputs(images.space, batch)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("name", SAVED)
def test_the_traced_actor_acts_as_predict(name: str) -> None:
    """On 1,000 observations, by a program that was traced with two rows."""
    saved = saved_policy(name)
    actor, images = actor_and_images(saved)
    batch = observations(images.space, 1000)
    expected, _ = saved.policy.predict(batch, deterministic=True)
    given = inputs(images.space, batch)
    traced = torch.jit.trace(actor, tuple(one[:2] for one in given))
    traced.output, traced.squash = actor.output, actor.squash
    for rows in (1, 7, 1000):
        found = act(traced, saved.action_space, [one[:rows] for one in given]).numpy()
        np.testing.assert_allclose(found, expected[:rows], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", GAUSSIAN)
def test_the_standard_deviation_is_the_distributions(name: str) -> None:
    saved = saved_policy(name)
    actor, images = actor_and_images(saved)
    if actor.output != "gaussian":
        assert isinstance(saved.action_space, spaces.MultiBinary)
        return
    batch = observations(images.space, 100)
    expected = distribution(saved, batch)
    mean, std = actor(*inputs(images.space, batch))
    torch.testing.assert_close(mean, expected.mean)
    torch.testing.assert_close(std, expected.stddev)
    assert std.min() > 0


def test_features_are_described_in_their_order() -> None:
    saved = sb3_zip.read(FOLDER / "ppo-dict-np2.zip")
    assert list(feature_columns(sb3_spaces.parsed(saved.observation_space)).items()) == [
        (("zebra",), (0, 6)),
        (("gear",), (6, 10)),
        (("lamps",), (10, 13)),
        (("modes",), (13, 18)),
        (("area",), (18, 20)),
    ]


def _save(folder: Path, kind: Any = PPO, **given: Any) -> Path:
    observation = given.pop("observation", spaces.Box(-1, 1, (4,)))
    action = given.pop("action", spaces.Discrete(2) if kind is DQN else spaces.Box(-1, 1, (2,)))

    class Empty(gymnasium.Env[Any, Any]):
        observation_space = observation
        action_space = action

    if kind is PPO:
        given = {"n_steps": 8, "batch_size": 8, **given}
    policy = "MultiInputPolicy" if isinstance(observation, spaces.Dict) else "MlpPolicy"
    kind(given.pop("policy", policy), Empty(), device="cpu", **given).save(folder / "policy.zip")
    return folder / "policy.zip"


def _rewrite(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    changed = path.parent / "changed.zip"
    with zipfile.ZipFile(changed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return changed


def _with_entries(path: Path, entries: dict[str, Any]) -> Path:
    def change(members: dict[str, bytes]) -> None:
        members["data"] = json.dumps({**json.loads(members["data"]), **entries}).encode()

    return _rewrite(path, change)


def _pickled(value: Any) -> dict[str, str]:
    return {":serialized:": base64.b64encode(pickle.dumps(value)).decode()}


@pytest.mark.parametrize("kind", [PPO, A2C, SAC, DQN])
@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(
            np.array([[-1, 0], [2, -np.inf]], np.float32),
            np.array([[1, 1], [3, np.inf]], np.float32),
        ),
        spaces.Discrete(3),
        spaces.MultiDiscrete([2, 5]),
        spaces.MultiBinary(4),
        spaces.Dict({f"part{number}": spaces.Box(-1, number + 1, (2,)) for number in range(60)}),
    ],
    ids=lambda space: type(space).__name__,
)
def test_spaces_are_rebuilt(kind: Any, space: Any, tmp_path: Path) -> None:
    space.seed(1)
    space.sample()  # now it holds a generator
    saved = sb3_zip.read(_save(tmp_path, kind, observation=space))
    assert saved.observation_space == space
    batch = observations(space, 50)
    expected, _ = kind.load(tmp_path / "policy.zip", device="cpu").predict(
        batch, deterministic=True
    )
    found, _ = saved.policy.predict(batch, deterministic=True)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "name", ["Mish", "GELU", "Softplus", "ReLU6", "SELU", "Hardswish", "Identity", "Softsign"]
)
def test_any_activation_of_torch(name: str, tmp_path: Path) -> None:
    kwargs = {"activation_fn": vars(torch.nn)[name], "net_arch": {"pi": [5, 4, 3], "vf": []}}
    saved = sb3_zip.read(_save(tmp_path, policy_kwargs=kwargs))
    assert isinstance(saved.policy.mlp_extractor.policy_net[1], vars(torch.nn)[name])
    model = PPO.load(tmp_path / "policy.zip", device="cpu")
    batch = observations(model.observation_space, 100)
    actor, images = actor_and_images(saved)
    found = act(actor, saved.action_space, inputs(images.space, batch))
    np.testing.assert_allclose(found, model.predict(batch, deterministic=True)[0], atol=1e-6)


class OwnActivation(torch.nn.Module):
    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return value.sin()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"activation_fn": OwnActivation}, rf"activation_fn is the class {__name__}\.OwnActiv"),
        ({"activation_fn": lambda: torch.nn.LeakyReLU(0.3)}, "activation_fn is a function"),
    ],
)
def test_what_needs_code_is_named(kwargs: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=message) as told:
        sb3_zip.read(_save(tmp_path, policy_kwargs=kwargs))
    assert "use `carlarl import-torchscript`" in str(told.value)
    assert "\n" not in str(told.value)


def test_an_own_extractor_is_named() -> None:
    for trusted in ((), ("__main__",)):
        with pytest.raises(ArtifactError, match=r"__main__\.Extractor, .*: move it into a modu"):
            sb3_zip.read(FOLDER / "ppo-own-extractor-np2.zip", trusted)


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        ("my_project.policies", "Mine", r"its policy is the class my_project\.policies\.Mine"),
        ("stable_baselines3.common.policies", "BasePolicy", "derives from no policy of Stable-"),
        ("stable_baselines3.common.policies", "Unknown", "its policy is the class stable_"),
    ],
)  # fmt: skip
def test_other_algorithms_are_named(module: str, name: str, message: str, tmp_path: Path) -> None:
    named = {":serialized:": base64.b64encode(f"c{module}\n{name}\n.".encode()).decode()}
    changed = _with_entries(_save(tmp_path), {"policy_class": named})
    with pytest.raises(ArtifactError, match=message):
        sb3_zip.read(changed)


class _Touch:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize(
    "entry", ["lr_schedule", "policy_kwargs", "observation_space", "_last_obs"]
)
def test_code_in_a_zip_never_runs(entry: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    changed = _with_entries(_save(tmp_path), {entry: _pickled({"x": _Touch(mark)})})
    if entry == "lr_schedule" or entry == "_last_obs":
        assert sb3_zip.read(changed).last_observation is None
    else:
        with pytest.raises(ArtifactError, match=r"changed\.zip: "):
            sb3_zip.read(changed)
    assert not mark.exists()


def test_a_zip_saved_on_a_gpu(tmp_path: Path) -> None:
    """Its tensors name the device that they were on. Here that name is written into them."""
    path = _save(tmp_path)
    expected = sb3_zip.read(path).policy.state_dict()

    def change(members: dict[str, bytes]) -> None:
        (tmp_path / "weights").write_bytes(members["policy.pth"])
        with zipfile.ZipFile(tmp_path / "weights") as archive:
            inner = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(tmp_path / "weights", "w") as archive:
            for name, content in inner.items():
                if name.endswith("/data.pkl"):
                    assert b"X\x03\x00\x00\x00cpu" in content
                    content = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
                archive.writestr(name, content)
        members["policy.pth"] = (tmp_path / "weights").read_bytes()

    found = sb3_zip.read(_rewrite(path, change)).policy.state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("entry", ["data", "policy.pth"])
def test_damage_is_an_artifact_error(entry: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.zip"
    path.write_bytes((FOLDER / "ppo-dict-np2.zip").read_bytes())
    with zipfile.ZipFile(path) as archive:
        whole = archive.read(entry)
    generator = np.random.default_rng(3)
    refused = []
    for _ in range(60):
        damaged = bytearray(whole)
        for position in generator.integers(0, len(whole), 5):
            damaged[position] = generator.integers(0, 256)
        changed = _rewrite(path, lambda members, data=bytes(damaged): members.update({entry: data}))
        try:
            sb3_zip.read(changed)
        except ArtifactError as error:
            refused.append(str(error))
    assert refused
    assert not any("\n" in message for message in refused)


def _endless() -> Any:
    """Make a Dict that has itself as a part."""
    space = spaces.Dict({"part": spaces.Discrete(2)})
    space.spaces["part"] = space
    return space


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"observation_space": None}, "NoneType is no space"),
        (
            {"action_space": _pickled(spaces.Sequence(spaces.Discrete(2)))},
            "Sequence is none of Box",
        ),
        ({"action_space": _pickled(spaces.Text(3))}, "action_space .* can't be read as data"),
        ({"policy_kwargs": {"layers": 3}}, "can't build it: .*layers"),
        ({"observation_space": _pickled(_endless())}, "no whole Dict: RecursionError"),
        ({"policy_kwargs": [3]}, "policy_kwargs are no dictionary"),
        ({"policy_kwargs": {"net_arch": [3, 5]}}, "can't build it: .*size mismatch"),
        ({"policy_class": "MlpPolicy"}, "its policy class is no class"),
        ({"num_timesteps": "many"}, "num_timesteps"),
    ],
)
def test_entries_that_are_no_policy(entries: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=message):
        sb3_zip.read(_with_entries(_save(tmp_path), entries))
