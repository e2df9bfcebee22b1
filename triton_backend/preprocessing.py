"""Make the inputs of a policy: normalised features of observations.

Pure numpy. The `preprocess` model uses it to serve, and the converters use it to check an export,
so that both compute the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policy_spec.graph import choices, feature_columns, features_width
from policy_spec.leaves import Leaf, leaves
from policy_spec.noise import KINDS
from policy_spec.parsing import parse_space
from policy_spec.signature import Signature, driving_space, sensors_of
from policy_spec.spaces import LeafSpace, Space, to_data, without

FILE_NAME = "preprocessing.json"

MAX_FEATURES = 1 << 24

NO_NOISE = "this policy has no noise to sample with: ask for its deterministic action"

Floats = NDArray[np.float32]
Step = tuple[str, tuple[float, ...]] | tuple[str, tuple[float, ...], tuple[int, int]]
"""Operation, values, and the columns (start, stop) of the features; without them all."""

Operation = Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], Any]

_OPERATIONS: dict[str, Operation] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "clip": lambda values, bounds, out: values.clip(bounds[0], bounds[1], out),
}
"""By name; each writes into its third argument, which may be the first."""


@dataclass(frozen=True)
class Preprocessing:
    """A policy's preprocessing: element-wise steps on the features, then one cast to float32.

    The features of an observation are those of its leaves in the card's order, row-major: the
    elements of a Box, zeros and ones of a MultiBinary, one-hot codes of a Discrete and of each
    branch of a MultiDiscrete. Rasters have none: they go to the policy as they are.

    Attributes:
        observation_space: of the policy.
        noise: width of the noise; 1 for a policy without.
        steps: in order; `values` has one number per column, or `(low, high)` for `clip`. Computed
            in float64, as Stable-Baselines3's `VecNormalize.normalize_obs` does.
        kind: of the noise, one of `policy_spec.noise.KINDS`.
    """

    observation_space: Space
    noise: int
    steps: tuple[Step, ...] = ()
    kind: str = "normal"

    def __post_init__(self) -> None:
        """Raise ValueError for steps that can't be computed."""
        if self.width > MAX_FEATURES:
            raise ValueError(f"an observation has {self.width} features, at most {MAX_FEATURES}")
        if self.kind not in KINDS:
            raise ValueError(f"unknown noise {self.kind!r}")
        for operation, values, *rest in self.steps:
            start, stop = rest[0] if rest else (0, self.width)
            if operation not in _OPERATIONS:
                raise ValueError(f"unknown preprocessing operation {operation!r}")
            if not 0 <= start < stop <= self.width:
                raise ValueError(f"{operation} has no columns {start} to {stop}")
            expected = 2 if operation == "clip" else stop - start
            if len(values) != expected:
                raise ValueError(f"{operation} takes {expected} values, not {len(values)}")
            if not np.isfinite(values).all() or (operation == "divide" and 0.0 in values):
                raise ValueError(f"{operation} has a value that is not finite, or a zero divisor")

    def __getstate__(self) -> dict[str, Any]:
        """Return what an artifact keeps in its pickle: the steps. The card has the rest."""
        return {"steps": self.steps}

    @classmethod
    def of(cls, signature: Signature, steps: tuple[Step, ...] = ()) -> Preprocessing:
        """Return the preprocessing of a policy; raise ValueError as the class does."""
        width = max(signature.noise_width, 1)
        return cls(signature.observation_space, width, steps, signature.noise)

    @cached_property
    def leaves(self) -> tuple[Leaf, ...]:
        """The leaves of an observation, in the card's order."""
        return leaves(self.observation_space)

    @cached_property
    def vectors(self) -> tuple[Leaf, ...]:
        """The leaves that become features: all but rasters."""
        return tuple(leaf for leaf in self.leaves if not leaf.raster)

    @cached_property
    def rasters(self) -> tuple[Leaf, ...]:
        """The other leaves, which the policy takes as they are."""
        return tuple(leaf for leaf in self.leaves if leaf.raster)

    @cached_property
    def width(self) -> int:
        """Number of features of one observation; 0 for rasters alone."""
        return features_width(self.observation_space)

    @cached_property
    def columns(self) -> dict[tuple[str, ...], tuple[int, int]]:
        """Where the features of each of `vectors` are, by its path: (start, stop)."""
        return feature_columns(self.observation_space)

    def flatten(self, rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Return the features before all steps, shape (n, width).

        `rows` has the values of each of `vectors`, shape (n, …); there must be one.
        """
        if len(rows) == 1:
            return self._codes[0](rows[0])
        parts = [code(values) for code, values in zip(self._codes, rows, strict=True)]
        return np.concatenate(parts, axis=1)

    def features(self, flat: NDArray[Any]) -> Floats:
        """Normalise what `flatten` returns, shape (n, width), into features of the same shape."""
        values = flat.astype(np.float64)
        for operation, operand, columns in self._operations:
            part = values if columns is None else values[:, columns]
            operation(part, operand, part)
        return values.astype(np.float32)

    @cached_property
    def _codes(self) -> list[Callable[[NDArray[Any]], NDArray[Any]]]:
        return [_code(leaf.space) for leaf in self.vectors]

    @cached_property
    def _operations(self) -> list[tuple[Operation, NDArray[np.float64], slice | None]]:
        return [
            (_OPERATIONS[name], np.array(values), slice(*rest[0]) if rest else None)
            for name, values, *rest in self.steps
        ]

    def dumps(self) -> str:
        """Return the file's text. Numbers keep all their bits.

        For speed, steering and sensors with normal noise it is the text of earlier releases.
        """
        sensors = sensors_of(self.observation_space)
        content: dict[str, Any] = {"sensors": sensors, "noise": self.noise, "steps": self.steps}
        if sensors is None or self.kind != "normal":
            space = without(self.observation_space, "unit", "description")
            noise = {"kind": self.kind, "width": self.noise}
            content = {"observation_space": to_data(space), "noise": noise, "steps": self.steps}
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def load(cls, path: Path) -> Preprocessing:
        """Read a file with the text of `dumps`; raise ValueError for anything else."""
        content = json.loads(path.read_text())
        steps: Any = tuple(
            (name, tuple(map(float, values)), *map(tuple, columns))
            for name, values, *columns in content["steps"]
        )
        if "sensors" in content:
            return cls(driving_space(int(content["sensors"])), int(content["noise"]), steps)
        space = parse_space(content["observation_space"], "observation_space")
        return cls(space, int(content["noise"]["width"]), steps, content["noise"]["kind"])


def _code(space: LeafSpace) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return what makes the features of a leaf's values, shape (n, …) → (n, features)."""
    branches = choices(space)
    if branches is None:
        return lambda values: values.reshape(len(values), space.size)
    values = np.concatenate([np.arange(one.start, one.stop) for one in branches])
    branch = np.repeat(np.arange(len(branches)), [len(one) for one in branches])
    return lambda given: (given.reshape(len(given), space.size)[:, branch] == values).astype(
        np.float32
    )
