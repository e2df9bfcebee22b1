"""Each cell of docs/SUPPORT.md: trained, imported, served, and compared with the library."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from converters.artifact.observations import drawn
from converters.importers.sb3 import import_sb3
from tests.support.cells import ALGORITHMS, BRANCHES, FRAMES, SEEN, STACKED, WRAPPED, Cell
from tests.support.served import Served, served

OBSERVATIONS, DRAWS, SESSIONS = 1000, 20_000, 50
NOT_TRAINED, GOOD = "–", "served"
ROWS = [(name, action) for name, told in ALGORITHMS.items() for action in told.actions]
MASK = "action_mask"


@pytest.mark.support
@pytest.mark.parametrize(("algorithm", "action"), ROWS)
def test_observations(algorithm: str, action: str, tmp_path: Path, record_property: Any) -> None:
    found = results([Cell(algorithm, seen, action) for seen in SEEN], tmp_path)
    record_property("row", ("matrix", ROWS.index((algorithm, action)), [algorithm, action, *found]))


@pytest.mark.support
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_wrappers(algorithm: str, tmp_path: Path, record_property: Any) -> None:
    action = ALGORITHMS[algorithm].actions[0]
    cells = [Cell(algorithm, seen, action, wrapper) for wrapper, seen in WRAPPED.items()]
    place = list(ALGORITHMS).index(algorithm)
    record_property("row", ("wrappers", place, [algorithm, *results(cells, tmp_path)]))


def results(cells: list[Cell], folder: Path) -> list[str]:
    """Return what became of each cell; a wrong action fails the test."""
    torch.set_num_threads(1)
    found, trained, folders = [NOT_TRAINED] * len(cells), [], []
    for index, cell in enumerate(cells):
        place = folder / str(index)
        place.mkdir()
        model = cell.train(place)
        if model is None:
            continue
        statistics = place / "vecnormalize.pkl"
        vector = isinstance(SEEN[cell.seen], spaces.Box) and len(SEEN[cell.seen].shape) == 1
        made = import_sb3(
            place / "policy.zip",
            f"v1.0.{index}",
            folder / "artifacts",
            vecnormalize=statistics if statistics.exists() else "none",
            fields=["vector"] if vector else None,
            frame_stack=FRAMES if cell.wrapper == STACKED else None,
        )
        folders.append(made)
        trained.append((index, cell, model))
    if folders:
        with served(folders, folder / "repository") as versions:
            for version, (index, cell, model) in zip(versions, trained, strict=True):
                compare(version, cell, model)
                found[index] = GOOD
    return found


def compare(version: Served, cell: Cell, model: Any) -> None:
    """Compare 1,000 actions, and the moments of 20,000 samples, with the library's.

    A policy with a memory drives in 50 sessions at once, each with new episodes in it.
    """
    rows = dict(
        zip(
            version.leaves, drawn(version.signature.observation_space, OBSERVATIONS, 3), strict=True
        )
    )
    if MASK in rows:  # the first choice of each branch is allowed, so that no mask forbids all
        firsts = np.arange(rows[MASK].shape[1]) % BRANCHES[cell.action][1] == 0
        rows[MASK] = rows[MASK] | firsts
    sessions = SESSIONS if version.signature.stateful else OBSERVATIONS
    library, own, tokens = Library(cell, model, sessions), [], np.full(sessions, None)
    got, starts = [], np.random.default_rng(1)
    for step in range(OBSERVATIONS // sessions):
        some = {name: part[step * sessions :][:sessions] for name, part in rows.items()}
        start = starts.uniform(size=sessions) < (0.1 if step else 1)
        own.append(library.actions(some, start, deterministic=True))
        if not version.signature.stateful:
            got.append(version.actions(some, deterministic=True))
            continue
        tokens[start] = None
        answer = version.act(some, deterministic=True, states=tokens.tolist())
        assert "states" in answer, answer
        tokens = np.array(answer["states"], object)
        got.append(np.array(answer["policyActions"]).reshape(sessions, -1))
    expected = np.concatenate(own)
    np.testing.assert_allclose(np.concatenate(got), expected, rtol=0, atol=2e-5, err_msg=str(cell))
    one = {name: np.repeat(part[:1], DRAWS, axis=0) for name, part in rows.items()}
    if version.signature.noise == "none":
        some = {name: part[:10] for name, part in rows.items()}
        assert version.act(some)["error"] == "UNSUPPORTED"
        return
    ours = version.actions(one, deterministic=False)
    library = Library(cell, model, DRAWS)
    theirs = library.actions(one, np.ones(DRAWS, bool), deterministic=False)
    for sample, own in zip(moments(cell, ours), moments(cell, theirs), strict=True):
        spread = np.sqrt((sample.var(axis=0) + own.var(axis=0)) / DRAWS)
        gap = np.abs(sample.mean(axis=0) - own.mean(axis=0))
        assert (gap <= 5 * spread + 1e-6).all(), (cell, gap, spread)


def moments(cell: Cell, actions: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """Return what has the moments of actions: their powers, or whether each is some value."""
    if cell.action == "Box":
        yield actions
        yield actions**2
        return
    for value in range(4):
        yield (actions == value).astype(float)


class Library:
    """The library's own policy, in so many environments: it remembers, and stacks frames."""

    def __init__(self, cell: Cell, model: Any, count: int) -> None:
        self._model, self._dict = model, isinstance(SEEN[cell.seen], spaces.Dict)
        self._state: Any = None
        self._frames: Any = None
        if cell.wrapper == STACKED:
            self._frames = StackedObservations(count, FRAMES, SEEN[cell.seen])  # type: ignore[arg-type]

    def actions(
        self, rows: dict[str, Any], start: np.ndarray[Any, Any], deterministic: bool
    ) -> np.ndarray[Any, Any]:
        """Return the actions in the next step, shape (n, elements)."""
        options = {}
        if MASK in rows:
            options["action_masks"] = rows[MASK].astype(bool)
        seen = {name: part for name, part in rows.items() if name != MASK}
        batch: Any = seen if self._dict else next(iter(seen.values()))
        if self._frames is not None:
            told: Any = [{"terminal_observation": batch[0]}] * len(
                start
            )  # of which nothing is kept
            batch, _ = self._frames.update(batch, start, [dict(one) for one in told])
        normalize = self._model.get_vec_normalize_env()
        if normalize is not None:
            batch = normalize.normalize_obs(batch)
        actions, self._state = self._model.predict(
            batch, self._state, start, deterministic=deterministic, **options
        )
        return np.array(actions).reshape(len(actions), -1)
