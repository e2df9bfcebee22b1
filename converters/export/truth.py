"""What the trained policy does, exactly, and how far an export may be away from it.

The truth is the trained policy in float64. An export may differ from it by `TOLERANCE`, and by four
times what the trained policy in float32 does itself; in FP16 by `FP16_TIMES` as much. So may the
scores of a discrete choice: where two are closer than that, either one may be chosen.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from converters.artifact.policy import Policy, StatefulPolicy
from policy_spec.graph import choices
from policy_spec.spaces import Box, MultiBinary
from triton_backend.runtimes import Arrays, Runtime

TOLERANCE = 1e-5
"""Largest absolute difference of an action's element, where float32 itself is exact."""
OWN_ERRORS = 4
"""How many times the trained policy's own error in float32 is allowed beside it."""

FP16_TIMES = 1000
"""How many times more FP16 may be away: its mantissa has 13 bits less."""

TOGETHER = 32
"""Rows of a batch in float64, where the size of a batch makes no difference that counts."""
MOST_OWN = 1e-3
"""A larger error is none of rounding: the program does something else in float64. Relative."""


def run(policy: Policy, *inputs: NDArray[Any], rows: int = 1) -> Arrays:
    """Return the trained policy's outputs for what it takes, `rows` at a time."""
    with torch.inference_mode():
        made = [policy(*part) for part in _parts(inputs, rows)]
    parts = [one if isinstance(one, tuple) else (one,) for one in made]
    return tuple(torch.cat(column).numpy() for column in zip(*parts, strict=True))


def drive(step: Runtime, given: Arrays, leaves: int) -> tuple[Arrays, Arrays]:
    """Let a policy with a memory of so many leaves drive, one row of `given` after the other.

    Return `given` with the state that it had before each step, and its outputs.
    """
    kept, after = given[:-leaves], tuple(one[:1] for one in given[-leaves:])
    before, made = [], []
    for row in range(len(given[0])):
        before.append(after)
        made.append(step(*(one[row : row + 1] for one in kept), *after))
        after = made[-1][-leaves:]
    states, outputs = (map(np.concatenate, zip(*each, strict=True)) for each in (before, made))
    return (*kept, *states), tuple(outputs)


def _scores(policy: Policy, *inputs: NDArray[Any], rows: int = 1) -> NDArray[Any]:
    with torch.inference_mode():
        return torch.cat([policy.scores(*part) for part in _parts(inputs, rows)]).numpy()


def _parts(inputs: Arrays, rows: int) -> Iterator[tuple[torch.Tensor, ...]]:
    return zip(*(torch.split(torch.from_numpy(one), rows) for one in inputs), strict=True)


def _widened(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float64) if array.dtype == np.float32 else array


class _Wide(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes in float64 what a program casts to float32 itself, as an image, or has in it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(_wide, (args, kwargs or {}))
        return func(*args, **kwargs)


def _wide(value: Any) -> Any:
    if value is torch.float32:
        return torch.float64
    single = isinstance(value, torch.Tensor) and value.dtype == torch.float32
    return value.double() if single else value


@dataclass(frozen=True)
class Truth:
    """What the trained policy does in float64 on some rows, and how far its export may be away.

    Attributes:
        policy: in float64; in float32 if it computes only in that.
        outputs: its own, the next state among them.
        scores: of a discrete choice, with noise; those of a Box do not count.
        allowed: the largest difference of each of `outputs`; of a discrete choice, of the scores
            and of each leaf of the next state. No element has its own: one that is nearly always
            clipped has a small error by chance.
        own: the largest error of the trained policy in float32.
    """

    policy: Policy
    outputs: Arrays
    scores: NDArray[Any]
    allowed: tuple[float, ...]
    own: float

    @classmethod
    def of(
        cls, policy: Policy, *inputs: NDArray[Any], half: bool = False, driven: bool = False
    ) -> Truth:
        """Compute the policy in both types for what it takes, as `Policy` does.

        If `half`, what is `allowed` is that of FP16. If `driven`, the rows are the steps of a
        `drive`, and each type has its own memory.
        """

        def computed(policy: Policy, given: Arrays, rows: int) -> tuple[Arrays, NDArray[Any]]:
            if not driven:
                return run(policy, *given, rows=rows), _scores(policy, *given, rows=rows)
            assert isinstance(policy, StatefulPolicy)
            given, outputs = drive(partial(run, policy), given, policy.leaves)
            return outputs, _scores(policy, *given)

        exact = copy.deepcopy(policy).double()
        as_it_is = computed(policy, inputs, 1)
        try:
            with _Wide():  # type: ignore[no-untyped-call]
                outputs, scores = computed(exact, tuple(map(_widened, inputs)), TOGETHER)
        except RuntimeError:  # a program may have constants of its own in float32
            exact, outputs, scores = policy, *as_it_is
        pairs = list(zip(as_it_is[0], outputs, strict=True))
        if not isinstance(policy.space, Box):
            pairs = [(as_it_is[1], scores), *pairs[1 + policy.two :]]
        own = [float(np.abs(one.astype(np.float64) - other).max()) for one, other in pairs]
        sizes = [1 + np.abs(other).max() for _, other in pairs]
        if any(one > MOST_OWN * size for one, size in zip(own, sizes, strict=True)):
            exact, outputs, scores = policy, *as_it_is
            own = [0.0] * len(own)
        times = FP16_TIMES if half else 1
        allowed = tuple(times * (TOLERANCE + OWN_ERRORS * one) for one in own)
        return cls(exact, outputs, scores, allowed, max(own))

    def clear(self) -> NDArray[np.bool_]:
        """Return for each row whether its choices are clear: rounding can't make them others."""
        if isinstance(self.policy.space, Box):
            return np.ones(len(self.scores), bool)
        most = self.allowed[0]
        if isinstance(self.policy.space, MultiBinary):
            return np.asarray((np.abs(self.scores) > most).all(axis=1))
        good, begin = np.ones(len(self.scores), bool), 0
        for values in choices(self.policy.space) or ():
            best = np.sort(self.scores[:, begin : begin + len(values)], axis=1)[:, -2:]
            good &= (len(values) == 1) | (best[:, -1] - best[:, 0] > most)
            begin += len(values)
        return good

    def errors(self, outputs: Arrays, order: NDArray[Any]) -> tuple[float, bool]:
        """Return how far the `outputs` of the rows `order` are away, and if that is allowed."""
        away = [
            np.abs(one.astype(np.float64) - other[order])
            for one, other in zip(outputs, self.outputs, strict=True)
        ]
        if not isinstance(self.policy.space, Box):
            actions = 1 + self.policy.two
            if not self._mapped(outputs[:actions]):
                return float("inf"), False
            away[:actions] = [self._lost(outputs[actions - 1], self.scores[order])]
        good = all((one <= most).all() for one, most in zip(away, self.allowed, strict=True))
        return max(float(one.max()) for one in away), good

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
