"""Make the inputs of a policy: normalised features of observations, and noise for sampling.

Pure numpy. The `preprocess` model uses it to serve, and the converters use it to check an export,
so that both compute the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE_NAME = "preprocessing.json"

Floats = NDArray[np.float32]
Step = tuple[str, tuple[float, ...]]

Operation = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]

_OPERATIONS: dict[str, Operation] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "clip": lambda values, bounds: np.clip(values, bounds[0], bounds[1]),
}


@dataclass(frozen=True)
class Preprocessing:
    """A policy's preprocessing: element-wise steps on the observation, then one cast to float32.

    Attributes:
        sensors: sensors per observation; the observation is `[speed, steering, sensor…]`.
        noise: width of the policy's own action, and so of its noise.
        steps: `(operation, values)` in order; `values` has one number per element of the
            observation, or `(low, high)` for `clip`. Computed in float64, as Stable-Baselines3's
            `VecNormalize.normalize_obs` does.
    """

    sensors: int
    noise: int
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for steps that can't be computed."""
        for operation, values in self.steps:
            if operation not in _OPERATIONS:
                raise ValueError(f"unknown preprocessing operation {operation!r}")
            expected = 2 if operation == "clip" else self.width
            if len(values) != expected:
                raise ValueError(f"{operation} takes {expected} values, not {len(values)}")
            if not np.isfinite(values).all() or (operation == "divide" and 0.0 in values):
                raise ValueError(f"{operation} has a value that is not finite, or a zero divisor")

    @property
    def width(self) -> int:
        """Elements of one observation: speed, steering and the sensors."""
        return self.sensors + 2

    def features(self, observation: Floats) -> Floats:
        """Normalise observations, shape (n, 2 + sensors), into features of the same shape."""
        values = observation.astype(np.float64)
        for operation, operand in self._operations:
            values = operation(values, operand)
        return values.astype(np.float32)

    @cached_property
    def _operations(self) -> list[tuple[Operation, NDArray[np.float64]]]:
        return [(_OPERATIONS[name], np.array(values)) for name, values in self.steps]

    def dumps(self) -> str:
        """Return the file's text. Numbers keep all their bits."""
        content = {"sensors": self.sensors, "noise": self.noise, "steps": self.steps}
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def load(cls, path: Path) -> Preprocessing:
        """Read a file with the text of `dumps`; raise ValueError for anything else."""
        content = json.loads(path.read_text())
        steps = tuple((name, tuple(map(float, values))) for name, values in content["steps"])
        return cls(int(content["sensors"]), int(content["noise"]), steps)


class NoiseSource:
    """Standard normal noise that depends on a row's seed and index alone.

    Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") is counter-based: the
    key is the seed, the counter's second word the row's index, and its first word counts the draws
    of one row. So a row gets the same noise in every batch. One generator gets a new key for each
    row, which costs a fifth of a new generator. Use it in one thread at a time.
    """

    def __init__(self) -> None:
        """Make the one generator."""
        self._bits = np.random.Philox(key=0)
        self._generator = np.random.Generator(self._bits)
        self._state = self._bits.state

    def draw(
        self,
        deterministic: NDArray[np.bool_],
        seed: NDArray[np.int64],
        row: NDArray[np.int64],
        width: int,
    ) -> Floats:
        """Return noise, shape (n, width), for n rows; zeros for rows that are `deterministic`.

        `seed` (0 to 2^63-1) and `row` (0 and up) have shape (n,).
        """
        noise = np.zeros((len(seed), width), np.float32)
        words = self._state["state"]
        for index in np.flatnonzero(~deterministic):
            words["key"][0] = seed[index]
            words["counter"][1] = row[index]
            self._bits.state = self._state
            self._generator.standard_normal(out=noise[index], dtype=np.float32)
        return noise
