"""Compare an exported policy with the trained policy."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.artifact.artifact import Artifact
from converters.artifact.observations import Rows, corners, drawn
from converters.errors import ConversionError
from converters.export.truth import FP16_TIMES, OWN_ERRORS, Truth, drive, run
from converters.export.truth import TOLERANCE as TOLERANCE
from converters.repository.tensors import MAX_BATCH_SIZE, max_batch_size
from policy_spec.leaves import leaves
from policy_spec.noise import NoiseSource
from policy_spec.spaces import Box
from triton_backend.runtimes import Arrays, Runtime

BATCH_SIZES = (1, 2, 7, 32, MAX_BATCH_SIZE)
REPEATS = 3
DRAWN = 64
"""Observations to compare on where none are recorded."""
STEPS = 100
"""Steps of the drive that a policy with a memory is compared on."""
MOST_BYTES = 4 << 20
"""Of recorded rasters, so many bytes are compared on, and at least `DRAWN` rows."""

Floats = NDArray[np.float32]


class ParityError(ConversionError):
    """An export does not act like the trained policy."""


def observations(artifact: Artifact) -> Rows:
    """Return the observations that policies are compared on: for each leaf its values, (n, …).

    They are the recorded ones, or 64 drawn ones if there are none. Of many recorded rasters they
    are some from the whole recording.
    """
    signature, found = artifact.card.signature, artifact.observations
    if count := len(found[0]):
        most = max(DRAWN, MOST_BYTES * count // sum(values.nbytes for values in found))
        if count <= most or not artifact.preprocessing.rasters:
            return found
        picked = np.linspace(0, count - 1, most).astype(int)
        return tuple(values[picked] for values in found)
    if signature.sensors is None:
        return drawn(signature.observation_space, DRAWN)
    width = 2 + signature.sensors
    flat = np.random.RandomState(0).uniform(size=(DRAWN, width))  # the same for ever
    flat = (flat * [200, 2, *[1] * (width - 2)] - [0, 1, *[0] * (width - 2)]).astype(np.float32)
    return flat[:, 0], flat[:, 1], flat[:, 2:]


def features(artifact: Artifact, rows: Rows) -> Floats:
    """Return the features of observations, shape (n, width)."""
    preprocessing, found = artifact.preprocessing, artifact.preprocessing.leaves
    vectors = [values for leaf, values in zip(found, rows, strict=True) if not leaf.raster]
    if not vectors:
        return np.empty((len(rows[0]), 0), np.float32)
    return preprocessing.features(preprocessing.flatten(vectors))


def rasters(artifact: Artifact, rows: Rows) -> list[NDArray[Any]]:
    """Return the rasters in observations, each of shape (n, …)."""
    found = zip(artifact.preprocessing.leaves, rows, strict=True)
    return [values for leaf, values in found if leaf.raster]


def inputs(artifact: Artifact, rows: Rows) -> Arrays:
    """Return what `Policy` takes for the deterministic action: features, noise and rasters.

    In each row an episode starts, for a policy with a memory.
    """
    count = len(rows[0])
    noise = np.zeros((count, artifact.preprocessing.noise), np.float32)
    state = artifact.card.signature.state
    start = [np.ones((count, 1), bool)] if state else []
    memory = [*start, *(np.zeros((count, *leaf.shape), leaf.dtype) for leaf in state)]
    return features(artifact, rows), noise, *rasters(artifact, rows), *memory


def steps(rows: Rows) -> Rows:
    """Return the observations of a drive of `STEPS`, given some."""
    picked = np.resize(np.arange(len(rows[0])), STEPS)
    return tuple(values[picked] for values in rows)


def episodes(artifact: Artifact, given: Arrays) -> tuple[Arrays, NDArray[np.bool_]]:
    """Return `inputs` with other starts: about each tenth step, and the first. Return these, too.

    The starts are of shape (n,).
    """
    starts = np.random.RandomState(0).uniform(size=len(given[0])) < 0.1
    starts[0] = True
    split = len(given) - len(artifact.card.signature.state)
    return (*given[: split - 1], starts[:, None], *given[split:]), starts


def probes(artifact: Artifact) -> Arrays:
    """Return what `Policy` takes for `observations`, for the comparison of exports.

    The first half of the rows is deterministic; the second half is the same with noise. The state
    of a policy with a memory is what it has when it drives over these observations.
    """
    given, zeros, *others = inputs(artifact, observations(artifact))
    if state := artifact.card.signature.state:
        driven, _ = episodes(artifact, (given, zeros, *others))
        (_, _, *others), _ = drive(partial(run, artifact.policy), driven, len(state))
    rows = np.arange(len(given))
    source = NoiseSource(artifact.preprocessing.kind)
    noise = source.draw(np.zeros(len(rows), bool), rows, rows, zeros.shape[1])
    return (
        np.concatenate([given, given]),
        np.concatenate([zeros, noise]),
        *(np.concatenate([one, one]) for one in others),
    )


def batch_sizes(artifact: Artifact) -> tuple[int, ...]:
    """Return those of `BATCH_SIZES` that the policy's models take, and the largest that they do."""
    most = max_batch_size(artifact.card.signature)
    return (*(rows for rows in BATCH_SIZES if rows < most), most)


def actions(artifact: Artifact, *inputs: NDArray[Any]) -> NDArray[Any]:
    """Return the trained policy's own answers, shape (n, elements), one row at a time."""
    return run(artifact.policy, *inputs)[0]


def measure(
    artifact: Artifact, form: str, runtime: Runtime, half: bool = False
) -> list[dict[str, Any]]:
    """Compare one format with the trained policy and with itself. Return a cell per batch size.

    That of one row has `steps_error` for a policy with a memory: the largest difference within a
    drive of `steps`, in which each has its own memory.

    `max_error` is the largest difference from the trained policy, for discrete choices that of
    their scores. `repeats_bit_exact` says whether a row's action was bitwise the same each time,
    `alone_bit_exact` whether it was the same as for the row alone; `repeats_error` and
    `alone_error` are the largest differences. If `half`, the runtime computes in FP16 and is
    allowed more. Raises ParityError if a difference from the trained policy is larger than allowed,
    for outputs of another type, and for an action that is not finite at a corner of the space.
    """
    where = f"{artifact.card.version} as {form}{' in FP16' if half else ''}"
    _check_corners(artifact, where, runtime)
    given = probes(artifact)
    truth, rows = Truth.of(artifact.policy, *given, half=half), np.arange(len(given[0]))
    alone = _batches(runtime, given, rows, 1)
    _check_types(artifact, where, alone)
    cells = []
    for batch in batch_sizes(artifact):
        order = np.resize(rows, -(-len(rows) // batch) * batch)
        answers = [_batches(runtime, given, order, batch) for _ in range(REPEATS)]
        error, good = truth.errors(answers[0], order)
        if not good:
            raise ParityError(
                f"{where}, batch {batch}: an action differs from the trained policy's by "
                f"{error:.2g}, allowed is {max(truth.allowed):.2g}"
            )
        same = tuple(output[order] for output in alone)
        cells.append(
            {
                **_key(form, batch, half),
                "repeats": REPEATS,
                "max_error": float(f"{error:.1e}"),
                "repeats_bit_exact": all(_same(answers[0], other) for other in answers[1:]),
                "repeats_error": max(_difference(answers[0], other) for other in answers[1:]),
                "alone_bit_exact": _same(answers[0], same),
                "alone_error": _difference(answers[0], same),
            }
        )
    if artifact.card.signature.stateful:
        cells[0] |= {"steps": STEPS, "steps_error": _driven(artifact, where, runtime, half)}
    return cells


def _driven(artifact: Artifact, where: str, runtime: Runtime, half: bool) -> float:
    """Return how far an export is away from the trained policy within a drive of `STEPS`."""
    given, _ = episodes(artifact, inputs(artifact, steps(observations(artifact))))
    truth = Truth.of(artifact.policy, *given, half=half, driven=True)
    step = partial(_batches, runtime, order=np.arange(1), batch=1)
    _, made = drive(lambda *row: step(row), given, len(artifact.card.signature.state))
    error, good = truth.errors(made, np.arange(STEPS))
    if not good:
        raise ParityError(
            f"{where}: within {STEPS} steps an action or the memory differs from the trained "
            f"policy's by {error:.2g}, allowed is {max(truth.allowed):.2g}"
        )
    return float(f"{error:.1e}")


def _key(form: str, batch: int, half: bool) -> dict[str, Any]:
    return {"format": form, **({"precision": "fp16"} if half else {}), "batch": batch}


def tolerance(artifact: Artifact, half: bool = False) -> float:
    """Return what an export keeps to: `TOLERANCE`, or more where float32 is that inexact.

    If `half`, it is that of FP16, `FP16_TIMES` as much.
    """
    own = Truth.of(artifact.policy, *probes(artifact)).own
    # The errors of a usual policy are below a tenth of it.
    least = TOLERANCE if own <= TOLERANCE / 10 else float(f"{TOLERANCE + OWN_ERRORS * own:.1e}")
    return float(f"{FP16_TIMES * least:.1e}") if half else least


def not_measured(
    artifact: Artifact, form: str, reason: str, half: bool = False
) -> list[dict[str, Any]]:
    """Return the cells of a format that can't run on this machine.

    They have the keys of `measure`, with `repeats` 0 and None for each figure, and `reason`.
    """
    figures = ("max_error", "repeats_bit_exact", "repeats_error", "alone_bit_exact", "alone_error")
    nothing = dict.fromkeys(figures)
    cells = [
        {**_key(form, batch, half), "repeats": 0, **nothing, "reason": reason}
        for batch in batch_sizes(artifact)
    ]
    if artifact.card.signature.stateful:
        cells[0] |= {"steps": STEPS, "steps_error": None}
    return cells


def _check_corners(artifact: Artifact, where: str, runtime: Runtime) -> None:
    space = artifact.card.signature.observation_space
    rows = corners(space)
    given = inputs(artifact, rows)
    made = _batches(runtime, given, np.arange(len(rows[0])), len(rows[0]))
    finite = [np.isfinite(one).reshape(len(one), -1).all(axis=1) for one in (given[0], *made)]
    bad = np.flatnonzero(~np.logical_and.reduce(finite))
    if len(bad):
        found = leaves(space)
        shown = ", ".join(
            f"{leaf.name} {one.ravel()[:3].tolist()}"
            for leaf, values in zip(found, rows, strict=True)
            for one in [values[bad[0]]]
        )
        raise ParityError(f"{where}: its action is not finite at the bounds of its space: {shown}")


def _check_types(artifact: Artifact, where: str, outputs: Arrays) -> None:
    state = [np.dtype(leaf.dtype) for leaf in artifact.card.signature.state]
    expected = [np.dtype(np.float32)] * (len(outputs) - len(state))
    space = artifact.policy.space
    if not isinstance(space, Box):
        expected[-1] = np.dtype(space.dtype)
    expected += state
    found = [one.dtype for one in outputs]
    if found != expected:
        raise ParityError(f"{where}: it answers in {found}, not in {expected}")


def _batches(runtime: Runtime, inputs: Arrays, order: NDArray[Any], batch: int) -> Arrays:
    """Return the outputs for the rows `order` of what `Policy` takes, computed in batches."""
    taken = inputs if inputs[0].shape[1] else inputs[1:]  # no graph takes features of no width
    parts = [order[start : start + batch] for start in range(0, len(order), batch)]
    made = [runtime(*(one[part] for one in taken)) for part in parts]
    return tuple(map(np.concatenate, zip(*made, strict=True)))


def _difference(first: Arrays, second: Arrays) -> float:
    pairs = zip(first, second, strict=True)
    return float(f"{max(np.abs(a.astype(np.float64) - b).max() for a, b in pairs):.1e}")


def _same(first: Arrays, second: Arrays) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))
