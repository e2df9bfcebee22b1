"""MaskablePPO's mask is a part of the observation, and the policy heeds it as sb3-contrib has it.

The zips of `sb3_files` were trained with masks that leave one choice of each branch, at least.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO

from converters.artifact import artifact
from converters.artifact.artifact import Artifact
from converters.artifact.card import ArtifactError
from converters.export import parity
from converters.export.export import export
from converters.importers.sb3 import import_sb3
from policy_spec.noise import NoiseSource
from tests.converters.sb3_actions import actor_and_images, distribution
from tests.converters.sb3_files.make import drawn_masks
from tests.converters.test_sb3_spaces import DRAWS, act, normalised, statistics
from tests.converters.test_sb3_zip import FOLDER, MASKED, observations, saved_policy

FIELDS = ["speed", "rest"]


def is_flat(space: Any) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 1


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def get(name: str) -> Artifact:
        flat = is_flat(saved_policy(name).observation_space)
        path, folder = FOLDER / f"{name}.zip", tmp_path_factory.mktemp(name)
        given: Any = {"vecnormalize": statistics(name), "fields": FIELDS if flat else None}
        return artifact.load(import_sb3(path, "v1.0.0", folder, **given))

    return get


def rows(batch: Any, mask: Any) -> tuple[Any, ...]:
    """What a caller sends: for each leaf of the card its values."""
    if isinstance(batch, dict):
        return (*batch.values(), mask)
    return (batch[:, 0], batch[:, 1:], mask) if batch.shape[1:] == (7,) else (batch, mask)


def acts(source: Artifact, batch: Any, mask: Any) -> Any:
    actions = act(source, *parity.inputs(source, rows(batch, mask)))
    return actions[:, 0] if actions.shape[1] == 1 else actions


@pytest.mark.parametrize("name", MASKED)
def test_acts_as_where_it_was_saved(name: str, imported: Any) -> None:
    held = dict(np.load(FOLDER / f"{name}.npz"))
    expected, mask = held.pop("actions"), held.pop("action_masks")
    batch = held.get("observation", held)
    predict = saved_policy(name).policy.predict
    unmasked, _ = predict(batch, deterministic=True)
    assert (unmasked != expected).any()
    np.testing.assert_array_equal(
        predict(batch, deterministic=True, action_masks=mask)[0], expected
    )
    if statistics(name) == "none":  # else the file holds what the policy saw behind it
        np.testing.assert_array_equal(acts(imported(name), batch, mask), expected)


@pytest.mark.parametrize("name", MASKED)
def test_acts_as_predict(name: str, imported: Any) -> None:
    """On 1,000 observations, some with nothing and some with all allowed."""
    saved = saved_policy(name)
    batch = observations(actor_and_images(saved)[1].space, 1000)
    mask = drawn_masks(saved.action_space, 1000, np.random.default_rng(5))
    mask[:50], mask[50:100] = 0, 1
    mask[100:200] = np.random.default_rng(6).integers(0, 2, mask[100:200].shape)
    expected, _ = saved.policy.predict(
        normalised(name, batch), deterministic=True, action_masks=mask
    )
    np.testing.assert_array_equal(acts(imported(name), batch, mask), expected)


@pytest.mark.parametrize("allowed", ["some", "nothing"])
@pytest.mark.parametrize("name", MASKED)
def test_samples_as_the_distribution_says(name: str, allowed: str, imported: Any) -> None:
    """20,000 of one observation. Where nothing of a branch is allowed, all of it is alike."""
    source, saved = imported(name), saved_policy(name)
    batch = observations(actor_and_images(saved)[1].space, 1)
    mask = drawn_masks(saved.action_space, 1, np.random.default_rng(8))
    mask *= allowed == "some"
    told = distribution(saved, normalised(name, batch), action_masks=mask)
    chances = [one.probs[0].numpy() for one in (told if isinstance(told, list) else [told])]
    given = [np.repeat(one, DRAWS, 0) for one in parity.inputs(source, rows(batch, mask))]
    at = int(source.preprocessing.width > 0)
    kind, width, seeds = source.preprocessing.kind, source.preprocessing.noise, np.arange(DRAWS)
    given[at] = NoiseSource(kind).draw(np.zeros(DRAWS, bool), seeds, seeds * 0, width)
    actions = act(source, *given)
    begin = 0
    for chance, column in zip(chances, actions.T, strict=True):
        drawn = np.eye(len(chance))[column]
        if allowed == "some":
            assert not drawn[:, mask[0, begin : begin + len(chance)] == 0].any()
        begin += len(chance)
        spread = np.sqrt(chance * (1 - chance))
        assert (np.abs(drawn.mean(0) - chance) <= 4.5 * spread / DRAWS**0.5).all()
        np.testing.assert_allclose(drawn.std(0), spread, rtol=0.05, atol=0.005)


def test_the_mask_is_in_the_card(imported: Any) -> None:
    spaces_of = {
        name: imported(f"maskableppo-{name}-np1").card.observation_space["subspaces"]
        for name in ("discrete", "multidiscrete", "binary", "camera")
    }
    masks = {name: parts["action_mask"] for name, parts in spaces_of.items()}
    assert {name: mask["n"] for name, mask in masks.items()} == {
        **{"discrete": 5, "multidiscrete": 5, "binary": 6, "camera": 4}
    }
    told = {(mask["type"], mask["description"]) for mask in masks.values()}
    assert told == {("MultiBinary", "1: the choice is allowed")}
    names = {name: list(parts)[:-1] for name, parts in spaces_of.items()}
    assert names == {
        "discrete": FIELDS,
        "multidiscrete": ["zebra", "gear", "lamps", "modes", "area"],
        "binary": ["observation"],
        "camera": ["observation"],
    }


def test_statistics_leave_the_mask_alone(imported: Any) -> None:
    steps = imported("maskableppo-discrete-np1").preprocessing.steps
    assert [step[2] for step in steps] == [(0, 7)] * 3
    steps = imported("maskableppo-multidiscrete-np1").preprocessing.steps
    assert [step[2] for step in steps] == [(0, 6)] * 3 + [(18, 20)] * 3


@pytest.mark.parametrize("name", ["maskableppo-multidiscrete-np1", "maskableppo-camera-np1"])
def test_exported(name: str, tmp_path: Path) -> None:
    path, given = FOLDER / f"{name}.zip", {"vecnormalize": statistics(name)}
    folder = import_sb3(path, "v1.0.0", tmp_path / "artifacts", **given)
    assert export([folder], tmp_path / "repository").active == "v1.0.0"


def _save(folder: Path, observation: Any) -> Path:
    env = type("Empty", (gymnasium.Env,), {})()
    env.observation_space, env.action_space = observation, spaces.Discrete(3)
    policy = "MultiInputPolicy" if isinstance(observation, spaces.Dict) else "MlpPolicy"
    MaskablePPO(policy, env, device="cpu", n_steps=8).save(folder / "policy.zip")
    return folder / "policy.zip"


def test_a_flat_vector_without_names_and_one_choice(tmp_path: Path) -> None:
    path = _save(tmp_path, spaces.Box(-1, 1, (4,)))
    given: Any = {"fields": ["vector"], "table": [{}, {}, {}], "vecnormalize": "none"}
    folder = import_sb3(path, "v1.0.0", tmp_path, **given)
    source = artifact.load(folder)
    assert list(source.card.observation_space["subspaces"]) == ["observation", "action_mask"]
    seen, mask = torch.zeros(3, 4), torch.eye(3)
    noise = torch.randn(3, 3)
    _, chosen = source.policy(torch.cat([seen, mask], 1), noise)
    assert chosen[:, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("observation", "fields"),
    [
        (spaces.Dict({"action_mask": spaces.MultiBinary(3), "v": spaces.Box(-1, 1, (2,))}), None),
        (spaces.Box(-1, 1, (4,)), ["speed", "action_mask:3"]),
    ],
)
def test_a_part_of_that_name_is_refused(observation: Any, fields: Any, tmp_path: Path) -> None:
    path = _save(tmp_path, observation)
    with pytest.raises(ArtifactError, match="action_mask is the name of the mask of M") as told:
        import_sb3(path, "v1.0.0", tmp_path / "artifacts", fields=fields, vecnormalize="none")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "artifacts").exists()
