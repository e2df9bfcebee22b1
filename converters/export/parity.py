"""Compare an exported policy with the trained policy.

The truth is the trained policy in float64. An export may differ from it by `TOLERANCE`, and by four
times what the trained policy in float32 does itself. So may the scores of a discrete choice: where
two are closer than that, either one may be chosen.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converters.artifact.artifact import Artifact
from converters.artifact.observations import Rows, corners, drawn
from converters.artifact.policy import Policy
from converters.errors import ConversionError
from converters.repository.configs import MAX_BATCH_SIZE
from policy_spec.leaves import leaves
from policy_spec.noise import NoiseSource
from policy_spec.spaces import Box, MultiBinary
from triton_backend.preprocessing import choices
from triton_backend.runtimes import Arrays, Runtime

TOLERANCE = 1e-5
"""Largest absolute difference of an action's element, where float32 itself is exact."""
OWN_ERRORS = 4
"""How many times the trained policy's own error in float32 is allowed beside it."""

BATCH_SIZES = (1, 2, 7, 32, MAX_BATCH_SIZE)
REPEATS = 3
DRAWN = 64
"""Observations to compare on where none are recorded."""

Floats = NDArray[np.float32]


class ParityError(ConversionError):
    """An export does not act like the trained policy."""


def observations(artifact: Artifact) -> Rows:
    """Return the observations that policies are compared on: for each leaf its values, (n, …).

    They are the recorded ones, or 64 drawn ones if there are none.
    """
    if len(artifact.observations[0]):
        return artifact.observations
    signature = artifact.card.signature
    if signature.sensors is None:
        return drawn(signature.observation_space, DRAWN)
    width = 2 + signature.sensors
    flat = np.random.RandomState(0).uniform(size=(DRAWN, width))  # the same for ever
    flat = (flat * [200, 2, *[1] * (width - 2)] - [0, 1, *[0] * (width - 2)]).astype(np.float32)
    return flat[:, 0], flat[:, 1], flat[:, 2:]


def features(artifact: Artifact, rows: Rows) -> Floats:
    """Return the features of observations, shape (n, width)."""
    return artifact.preprocessing.features(artifact.preprocessing.flatten(rows))


def probes(artifact: Artifact) -> tuple[Floats, Floats]:
    """Return the features and noise of `observations`, for the comparison of exports.

    The first half of the rows is deterministic; the second half is the same with noise.
    """
    preprocessing = artifact.preprocessing
    given = features(artifact, observations(artifact))
    rows = np.arange(len(given))
    source = NoiseSource(preprocessing.kind)
    noise = source.draw(np.zeros(len(rows), bool), rows, rows, preprocessing.noise)
    return np.concatenate([given, given]), np.concatenate([np.zeros_like(noise), noise])


def actions(artifact: Artifact, features: Floats, noise: Floats) -> NDArray[Any]:
    """Return the trained policy's own answers, shape (n, elements), one row at a time."""
    return _run(artifact.policy, features, noise)[0]


def _run(policy: Policy, features: NDArray[Any], noise: NDArray[Any]) -> Arrays:
    """Return the trained policy's outputs, one row at a time."""
    with torch.inference_mode():
        rows = zip(torch.from_numpy(features), torch.from_numpy(noise), strict=True)
        made = [policy(f[None], n[None]) for f, n in rows]
    parts = [one if isinstance(one, tuple) else (one,) for one in made]
    return tuple(torch.cat(column).numpy() for column in zip(*parts, strict=True))


def _scores(policy: Policy, features: NDArray[Any], noise: NDArray[Any]) -> NDArray[Any]:
    with torch.inference_mode():
        rows = zip(torch.from_numpy(features), torch.from_numpy(noise), strict=True)
        return torch.cat([policy.scores(f[None], n[None]) for f, n in rows]).numpy()


@dataclass(frozen=True)
class Truth:
    """What the trained policy does in float64 on some rows, and how far its export may be away.

    Attributes:
        policy: in float64; in float32 if it can't compute in float64.
        outputs: its own.
        scores: of a discrete choice, with noise; those of a Box do not count.
        allowed: the largest difference of each element of `outputs`, or of the scores.
        own: the largest error of the trained policy in float32.
    """

    policy: Policy
    outputs: Arrays
    scores: NDArray[Any]
    allowed: tuple[NDArray[Any], ...]
    own: float

    @classmethod
    def of(cls, policy: Policy, features: Floats, noise: Floats) -> Truth:
        """Compute the policy in both types."""
        exact, wide = copy.deepcopy(policy), (features.astype(np.float64), noise.astype(np.float64))
        try:
            outputs, scores = _run(exact.double(), *wide), _scores(exact, *wide)
        except RuntimeError:  # a program may have constants of its own in float32
            exact = policy
            outputs, scores = _run(policy, features, noise), _scores(policy, features, noise)
        if isinstance(policy.space, Box):
            pairs = list(zip(_run(policy, features, noise), outputs, strict=True))
        else:
            pairs = [(_scores(policy, features, noise), scores)]
        own = [np.abs(one.astype(np.float64) - other).max(axis=0) for one, other in pairs]
        allowed = tuple(TOLERANCE + OWN_ERRORS * one for one in own)
        return cls(exact, outputs, scores, allowed, max(float(one.max()) for one in own))

    def errors(self, outputs: Arrays, order: NDArray[Any]) -> tuple[float, bool]:
        """Return how far the `outputs` of the rows `order` are away, and if that is allowed."""
        if isinstance(self.policy.space, Box):
            away = [
                np.abs(one.astype(np.float64) - other[order])
                for one, other in zip(outputs, self.outputs, strict=True)
            ]
            good = all((one <= most).all() for one, most in zip(away, self.allowed, strict=True))
            return max(float(one.max()) for one in away), good
        own = outputs[-1]
        if not self._mapped(outputs):
            return float("inf"), False
        lost = self._lost(own, self.scores[order])
        return float(lost.max()), bool((lost <= self.allowed[0].max()).all())

    def _mapped(self, outputs: Arrays) -> bool:
        """Whether the control is the one for the policy's own action in the same answer."""
        if len(outputs) == 1:
            return True
        with torch.inference_mode():
            expected = self.policy.controls(torch.from_numpy(outputs[1].copy()))
        return np.array_equal(outputs[0], expected.numpy().astype(np.float32))

    def _lost(self, own: NDArray[Any], scores: NDArray[Any]) -> NDArray[Any]:
        """Return by how much the scores of the choices `own` are below the best ones.

        Infinity stands for a choice that the space does not have.
        """
        space = self.policy.space
        if isinstance(space, MultiBinary):
            lost = np.where(own == (scores > 0), 0.0, np.abs(scores))
            return np.where((own == 0) | (own == 1), lost, np.inf)
        lost, begin = np.full(own.shape, np.inf), 0
        for branch, values in enumerate(choices(space) or ()):
            part = scores[:, begin : begin + len(values)]
            chosen = own[:, branch] - values.start
            inside = np.flatnonzero((chosen >= 0) & (chosen < len(values)))
            best = part[inside].max(axis=1)
            lost[inside, branch] = best - part[inside, chosen[inside]]
            begin += len(values)
        return lost


def measure(artifact: Artifact, form: str, runtime: Runtime) -> list[dict[str, Any]]:
    """Compare one format with the trained policy and with itself. Return a cell per batch size.

    `max_error` is the largest difference from the trained policy, for discrete choices that of
    their scores. `repeats_bit_exact` says whether a row's action was bitwise the same each time,
    `alone_bit_exact` whether it was the same as for the row alone; `repeats_error` and
    `alone_error` are the largest differences. Raises ParityError if a difference from the trained
    policy is larger than allowed, for outputs of another type, and for an action that is not finite
    at a corner of the space.
    """
    where = f"{artifact.card.version} as {form}"
    _check_corners(artifact, where, runtime)
    given, noise = probes(artifact)
    truth = Truth.of(artifact.policy, given, noise)
    alone = _batches(runtime, given, noise, np.arange(len(given)), 1)
    _check_types(artifact, where, alone)
    cells = []
    for batch in BATCH_SIZES:
        order = np.resize(np.arange(len(given)), -(-len(given) // batch) * batch)
        answers = [_batches(runtime, given, noise, order, batch) for _ in range(REPEATS)]
        error, good = truth.errors(answers[0], order)
        if not good:
            raise ParityError(
                f"{where}, batch {batch}: an action differs from the trained policy's by "
                f"{error:.2g}, allowed is {max(one.max() for one in truth.allowed):.2g}"
            )
        same = tuple(output[order] for output in alone)
        cells.append(
            {
                "format": form,
                "batch": batch,
                "repeats": REPEATS,
                "max_error": float(f"{error:.1e}"),
                "repeats_bit_exact": all(_same(answers[0], other) for other in answers[1:]),
                "repeats_error": max(_difference(answers[0], other) for other in answers[1:]),
                "alone_bit_exact": _same(answers[0], same),
                "alone_error": _difference(answers[0], same),
            }
        )
    return cells


def tolerance(artifact: Artifact) -> float:
    """Return what an export keeps to: `TOLERANCE`, or more where float32 is that inexact."""
    own = Truth.of(artifact.policy, *probes(artifact)).own
    # The errors of a usual policy are below a tenth of it.
    return TOLERANCE if own <= TOLERANCE / 10 else float(f"{TOLERANCE + OWN_ERRORS * own:.1e}")


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


def _check_corners(artifact: Artifact, where: str, runtime: Runtime) -> None:
    space = artifact.card.signature.observation_space
    rows = corners(space)
    given = features(artifact, rows)
    zeros = np.zeros((len(given), artifact.preprocessing.noise), np.float32)
    finite = [np.isfinite(one).all(axis=1) for one in (given, *runtime(given, zeros))]
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
    expected = [np.dtype(np.float32)] * len(outputs)
    space = artifact.policy.space
    if not isinstance(space, Box):
        expected[-1] = np.dtype(space.dtype)
    found = [one.dtype for one in outputs]
    if found != expected:
        raise ParityError(f"{where}: it answers in {found}, not in {expected}")


def _batches(
    runtime: Runtime, features: Floats, noise: Floats, order: NDArray[Any], batch: int
) -> Arrays:
    """Return the outputs for the rows `order`, computed in batches."""
    parts = [order[start : start + batch] for start in range(0, len(order), batch)]
    made = [runtime(features[part], noise[part]) for part in parts]
    return tuple(map(np.concatenate, zip(*made, strict=True)))


def _difference(first: Arrays, second: Arrays) -> float:
    pairs = zip(first, second, strict=True)
    return float(f"{max(np.abs(a.astype(np.float64) - b).max() for a, b in pairs):.1e}")


def _same(first: Arrays, second: Arrays) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))
