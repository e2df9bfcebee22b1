"""Whether a policy was trained behind VecNormalize, as far as its zip tells.

The zip holds no wrapper, but what the policy saw last, and the "original" of it. PPO, A2C and the
other algorithms of `ON_POLICY` keep an original only behind VecNormalize, whatever that normalises.
SAC, TD3, DQN and the like always keep one: behind VecNormalize it is the same observation before it
was normalised, otherwise it is the observation before the last one. What was not trained itself
does not tell: its weights may be another policy's, as `set_parameters` copies them.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from converters.artifact import pickles
from converters.artifact.card import ArtifactError
from converters.importers import files
from converters.importers.sb3_spaces import named, outside
from converters.importers.sb3_zip import ON_POLICY, SavedPolicy

CLIP = 10.0
"""VecNormalize's own bound of what it makes, unless it is told another."""

_ASK = (
    "give its statistics with --vecnormalize FILE, or --vecnormalize none if it saw the "
    "observations as they are"
)


def check(
    path: Path,
    saved: SavedPolicy,
    given: Path | Literal["none"] | None,
    whole: Collection[str | None] = (),
    frames: int = 1,
) -> Path | None:
    """Return the file of statistics to use, or None.

    Raises ArtifactError if `given` is None and the zip does not tell that observations were not
    normalised, if it tells that they were not and `given` is a VecNormalize that does, if `given`
    normalises a part that is in `whole`, which no preprocessing changes, and if the zip shows
    stacked frames where `frames` is 1.
    """
    if frames == 1 and (count := _stacked(saved)):
        raise ArtifactError(
            f"{path}: it was trained behind VecFrameStack: say --frame-stack {count}, if that is "
            "its number of frames; callers then send one"
        )
    if given == "none":
        return None
    if given is None:
        why = unsure(saved)
        if why is not None:
            raise ArtifactError(f"{path}: {why}: {_ASK}")
        return None
    record = _record(given)
    if record is not None and unsure(saved, float(record.clip_obs)) is None:
        raise ArtifactError(
            f"{path}: it was trained on observations that were not normalised, and {given} would "
            "normalise them: leave --vecnormalize away"
        )
    normalised = getattr(record, "obs_rms", None)
    for key in set(normalised if isinstance(normalised, dict) else [None]) & set(whole):
        if record is not None:
            raise ArtifactError(
                f"{path}: {given} normalises {named(key)}, which is an image or a raster: such a "
                "policy can't be imported yet"
            )
    return given


def _record(path: Path) -> Any:
    """Return a VecNormalize that normalises observations, or None."""
    try:
        record = pickles.load(files.read(path, "pickle"))
    except ValueError:
        return None  # the artifact says what is wrong with it
    kind = record.kind if isinstance(record, pickles.Record) else ""
    return record if kind == "VecNormalize" and getattr(record, "norm_obs", True) else None


def unsure(saved: SavedPolicy, clip: float = CLIP) -> str | None:
    """Return None if the policy saw its observations as they are, or why that does not show.

    `clip` is the bound of what VecNormalize makes.
    """
    last, original = saved.last_observation, saved.last_original
    if not saved.trained:
        return (
            "it was not trained since it was made, or not all of it was saved, so it does not tell "
            "whether its weights come from behind VecNormalize"
        )
    if saved.algorithm in ON_POLICY:
        return None if original is None else "it was trained behind VecNormalize"
    if last is None or original is None:
        return (
            "it does not hold an observation that tells whether it was trained behind VecNormalize"
        )
    pairs = [(last, original)] if not isinstance(last, dict) else _pairs(saved, last, original)
    if all(_plain(seen, before, clip) for seen, before in pairs):
        return None
    told = "its last observation does not tell whether it was trained behind VecNormalize"
    if _outside(saved, last) and not _outside(saved, original):
        told += " (it lies outside its space, as what VecNormalize makes often does)"
    return told


def _pairs(saved: SavedPolicy, last: Any, original: Any) -> list[Any]:
    """Return what VecNormalize may have normalised: the parts that are Box."""
    space: Any = saved.observation_space
    keys = [key for key, part in space.spaces.items() if isinstance(part, spaces.Box)]
    return [(last[key], original[key]) for key in keys]


def _stacked(saved: SavedPolicy) -> int:
    """Return how many frames VecFrameStack stacked, 0 where it does not show.

    On policy it may have stacked what VecNormalize normalised: the original is smaller. Off policy,
    the last vector is the one before, one frame further.
    """
    last, original = saved.last_observation, saved.last_original
    if last is None or original is None:
        return 0
    keys = list(last) if isinstance(last, dict) else [None]
    pairs = [(last, original) if key is None else (last[key], original[key]) for key in keys]
    if saved.algorithm in ON_POLICY:
        counts = (seen.size // before.size for seen, before in pairs if seen.size != before.size)
        return max(counts, default=0)
    return max(_shifted(seen, before) for seen, before in pairs)


def _plain(last: NDArray[Any], before: NDArray[Any], clip: float) -> bool:
    """Whether `last` can't be what VecNormalize makes of `before`."""
    if (np.array_equal(last, before) and last.any()) or last.dtype != np.float32:
        return True
    if bool((np.abs(last) > clip).any()):
        return True
    # A number that stays the same. Whole ones do not count: they may be 0, or a bound of clipping.
    kept = (last == before) & (last % 1 != 0)
    return bool(kept.any())


def _shifted(last: NDArray[Any], before: NDArray[Any]) -> int:
    """Return how many frames two vectors have, of which `last` is one frame further; else 0."""
    width = last.shape[-1] if last.ndim == 2 else 0
    for size in range(1, width // 2 + 1):
        kept = last[:, :-size]
        # Whole numbers do not count, and one number alone: they may be alike by chance.
        if width % size == 0 and np.array_equal(kept, before[:, size:]):
            return width // size if len(np.unique(kept[kept % 1 != 0])) > 1 else 0
    return 0


def _outside(saved: SavedPolicy, batch: Any) -> bool:
    space = saved.observation_space
    return isinstance(space, spaces.Box) and outside(space, batch)
