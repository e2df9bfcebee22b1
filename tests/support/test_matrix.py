"""Each cell of docs/SUPPORT.md: trained, imported, served, and compared with the library."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from converters.artifact.card import ArtifactError
from converters.artifact.observations import drawn
from converters.importers.sb3 import import_sb3
from tests.support.cells import ALGORITHMS, BRANCHES, SEEN, WRAPPED, Cell
from tests.support.served import Served, served

OBSERVATIONS, DRAWS = 1000, 20_000
NOT_TRAINED, GOOD, REFUSED, FRAMES = "–", "served", "refused", "all frames"
ROWS = [(name, action) for name, told in ALGORITHMS.items() for action in told.actions]
MASK = "action_mask"
RECURRENT, STACKED = "RecurrentPPO", "VecFrameStack"


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
        try:
            made = import_sb3(
                place / "policy.zip",
                f"v1.0.{index}",
                folder / "artifacts",
                vecnormalize=statistics if statistics.exists() else "none",
                fields=["vector"] if vector else None,
            )
        except ArtifactError:
            if cell.algorithm != RECURRENT and cell.wrapper != STACKED:
                raise
            found[index] = REFUSED
            continue
        assert cell.algorithm != RECURRENT
        folders.append(made)
        trained.append((index, cell, model))
    if folders:
        with served(folders, folder / "repository") as versions:
            for version, (index, cell, model) in zip(versions, trained, strict=True):
                compare(version, cell, model)
                found[index] = FRAMES if cell.wrapper == STACKED else GOOD
    return found


def compare(version: Served, cell: Cell, model: Any) -> None:
    """Compare 1,000 actions, and the moments of 20,000 samples, with the library's."""
    rows = dict(
        zip(
            version.leaves, drawn(version.signature.observation_space, OBSERVATIONS, 3), strict=True
        )
    )
    if MASK in rows:  # the first choice of each branch is allowed, so that no mask forbids all
        firsts = np.arange(rows[MASK].shape[1]) % BRANCHES[cell.action][1] == 0
        rows[MASK] = rows[MASK] | firsts
    expected = own_actions(cell, model, rows, deterministic=True)
    got = version.actions(rows, deterministic=True)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5, err_msg=str(cell))
    one = {name: np.repeat(part[:1], DRAWS, axis=0) for name, part in rows.items()}
    if version.signature.noise == "none":
        some = {name: part[:10] for name, part in rows.items()}
        assert version.act(some)["error"] == "UNSUPPORTED"
        return
    ours = version.actions(one, deterministic=False)
    theirs = own_actions(cell, model, one, deterministic=False)
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


def own_actions(
    cell: Cell, model: Any, rows: dict[str, Any], deterministic: bool
) -> np.ndarray[Any, Any]:
    """Return the library's own actions, shape (n, elements)."""
    options = {}
    if MASK in rows:
        options["action_masks"] = rows[MASK].astype(bool)
    seen = {name: part for name, part in rows.items() if name != MASK}
    batch: Any = seen if isinstance(SEEN[cell.seen], spaces.Dict) else next(iter(seen.values()))
    normalize = model.get_vec_normalize_env()
    if normalize is not None:
        batch = normalize.normalize_obs(batch)
    actions = model.predict(batch, deterministic=deterministic, **options)[0]
    return np.array(actions).reshape(len(actions), -1)
