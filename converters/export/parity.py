"""Compare an exported policy with the trained policy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converters.artifact.artifact import Artifact
from converters.errors import ConversionError
from converters.repository.configs import MAX_BATCH_SIZE
from triton_backend.preprocessing import NoiseSource
from triton_backend.runtimes import Runtime

TOLERANCE = 1e-5
"""Largest absolute difference of an action's element, FP32 on the CPU."""

BATCH_SIZES = (1, 2, 7, 32, MAX_BATCH_SIZE)
REPEATS = 3

Floats = NDArray[np.float32]


class ParityError(ConversionError):
    """An export does not act like the trained policy."""


def corners(sensors: int) -> Floats:
    """Return the corners of the observation's ranges, shape (20, 2 + sensors)."""
    alternating = [index % 2 for index in range(sensors)]
    patterns = [[value] * sensors for value in (0, 1, -1000, 1000)] + [alternating]
    return np.array(
        [
            [speed, steering, *pattern]
            for speed, steering, pattern in itertools.product((0, 200), (-1, 1), patterns)
        ],
        np.float32,
    )


def observations(artifact: Artifact) -> Floats:
    """Return the observations that policies are compared on, shape (n, 2 + sensors).

    They are the recorded ones, or 64 random ones if there are none, and then the corners, where
    most actions are at their bounds.
    """
    sensors = artifact.card.sensors
    found = artifact.observations
    if not len(found):
        drawn = np.random.RandomState(0).uniform(size=(64, 2 + sensors))  # the same for ever
        found = (drawn * [200, 2, *[1] * sensors] - [0, 1, *[0] * sensors]).astype(np.float32)
    return np.concatenate([found, corners(sensors)])


def probes(artifact: Artifact) -> tuple[Floats, Floats]:
    """Return the features and noise of `observations`, for the comparison of exports.

    The first half of the rows is deterministic; the second half is the same with noise.
    """
    features = artifact.preprocessing.features(observations(artifact))
    rows = np.arange(len(features))
    noise = NoiseSource().draw(np.zeros(len(rows), bool), rows, rows, artifact.preprocessing.noise)
    return np.concatenate([features, features]), np.concatenate([np.zeros_like(noise), noise])


def actions(artifact: Artifact, features: Floats, noise: Floats) -> Floats:
    """Return the trained policy's own actions, shape (n, 3), one row at a time."""
    with torch.inference_mode():
        rows = zip(torch.from_numpy(features), torch.from_numpy(noise), strict=True)
        return np.concatenate([artifact.policy(f[None], n[None]).numpy() for f, n in rows])


def measure(artifact: Artifact, form: str, runtime: Runtime) -> list[dict[str, Any]]:
    """Compare one format with the trained policy and with itself. Return a cell per batch size.

    `max_error` is the largest difference from the trained policy. `repeats_bit_exact` says whether
    a row's action was bitwise the same each time, `alone_bit_exact` whether it was the same as for
    the row alone; `repeats_error` and `alone_error` are the largest differences. Raises ParityError
    if a difference from the trained policy is larger than `TOLERANCE`.
    """
    features, noise = probes(artifact)
    expected = actions(artifact, features, noise)
    alone = np.concatenate(
        [runtime(features[i : i + 1], noise[i : i + 1]) for i in range(len(features))]
    )
    cells = []
    for batch in BATCH_SIZES:
        order = np.resize(np.arange(len(features)), -(-len(features) // batch) * batch)
        answers = []
        for _ in range(REPEATS):
            parts = (order[start : start + batch] for start in range(0, len(order), batch))
            answers.append(np.concatenate([runtime(features[part], noise[part]) for part in parts]))
        error = float(np.abs(answers[0].astype(np.float64) - expected[order]).max())
        if not error <= TOLERANCE:
            raise ParityError(
                f"{artifact.card.version} as {form}, batch {batch}: an action differs from the "
                f"trained policy's by {error:.2g}, allowed is {TOLERANCE:g}"
            )
        cells.append(
            {
                "format": form,
                "batch": batch,
                "repeats": REPEATS,
                "max_error": float(f"{error:.1e}"),
                "repeats_bit_exact": all(_same(answers[0], other) for other in answers[1:]),
                "repeats_error": max(_difference(answers[0], other) for other in answers[1:]),
                "alone_bit_exact": _same(answers[0], alone[order]),
                "alone_error": _difference(answers[0], alone[order]),
            }
        )
    return cells


def not_measured(form: str, reason: str) -> list[dict[str, Any]]:
    """Return the cells of a format that can't run on this machine.

    They have the keys of `measure`, with `repeats` 0 and None for each figure, and `reason`.
    """
    figures = ("max_error", "repeats_bit_exact", "repeats_error", "alone_bit_exact", "alone_error")
    nothing = dict.fromkeys(figures)
    return [
        {"format": form, "batch": batch, "repeats": 0, **nothing, "reason": reason}
        for batch in BATCH_SIZES
    ]


def _difference(first: Floats, second: Floats) -> float:
    return float(f"{np.abs(first.astype(np.float64) - second).max():.1e}")


def _same(first: Floats, second: Floats) -> bool:
    return first.tobytes() == second.tobytes()
