"""Frames that VecFrameStack stacks: callers send the last one, the state has the earlier ones.

A zip does not hold its environment, so the user says how many frames it stacked. `VecFrameStack`
stacks an image along its channels, and any other Box along its last dimension, each part of a Dict
alone; at an episode's start the earlier frames are zero.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations
from torch import Tensor, nn

from converters.artifact import pickles, preprocessor
from converters.artifact.card import ArtifactError
from converters.importers import files, sb3_images, sb3_spaces
from converters.importers.sb3_actor import Actor
from converters.importers.sb3_spaces import Space
from policy_spec.graph import feature_columns, features_width
from policy_spec.leaves import Leaf, leaves
from policy_spec.signature import Signature, StateLeaf
from triton_backend.preprocessing import Preprocessing

Order = Literal["first", "last"]
ORDERS: tuple[Order, ...] = get_args(Order)

Parts = Mapping[str | None, NDArray[Any]]
"""A batch of observations, for each part its values, (n, …)."""

_AXES = {"first": 0, "last": -1}


@dataclass(frozen=True)
class Frames:
    """How observations are stacked. Make it by `find`.

    Attributes:
        count: frames of a stack.
        space: of one frame, as callers send it.
        stacked: of all of them, as callers would send these.
        orders: for each part, along which of its dimensions they are stacked.
    """

    count: int
    space: Space
    stacked: Space
    orders: dict[str | None, Order]

    @cached_property
    def leaves(self) -> list[tuple[Leaf, Leaf, Order]]:
        """The leaves of a frame and of a stack, and how one becomes the other."""
        one, all_ = (leaves(sb3_spaces.parsed(space)) for space in (self.space, self.stacked))
        return [
            (leaf, whole, self.orders[sb3_spaces.key(leaf)])
            for leaf, whole in zip(one, all_, strict=True)
        ]

    @cached_property
    def state(self) -> tuple[StateLeaf, ...]:
        """The earlier frames: those of all features together, and those of each raster."""
        found: list[StateLeaf] = []
        if width := features_width(sb3_spaces.parsed(self.space)):
            found.append(StateLeaf("frames", "float32", (self.count - 1, width)))
        for leaf, _, _ in self.leaves:
            if leaf.raster:
                name = "-".join(["frames", *leaf.path])
                name = re.sub("[^A-Za-z0-9_-]", "_", name)
                while name in (one.name for one in found):
                    name += "_"
                shape = (self.count - 1, *leaf.space.shape)
                found.append(StateLeaf(name, leaf.space.dtype, shape))
        return tuple(found)

    def newest(self, batch: Any) -> Any:
        """Return the last frames of a batch as a policy saw it; what is no stack stays."""
        if isinstance(batch, dict):
            return {key: self._newest(key, values) for key, values in batch.items()}
        return self._newest(None, batch)

    def _newest(self, key: str | None, values: Any) -> Any:
        part = sb3_spaces.parts(self.stacked).get(key)
        if values is None or part is None or values.shape[1:] != part.shape:
            return values
        return self._split(key, values)[-1]

    def _split(self, key: str | None, values: NDArray[Any]) -> list[NDArray[Any]]:
        return np.split(values, self.count, axis=1 if self.orders[key] == "first" else -1)

    def earlier(self, stacked: Parts) -> list[NDArray[Any]]:
        """Return the state after a step, of the stack that the policy saw in it."""
        features, rasters = [], []
        for leaf, _, _ in self.leaves:
            key = sb3_spaces.key(leaf)
            kept = np.stack(self._split(key, stacked[key])[1:], axis=1)
            if leaf.raster:
                rasters.append(kept)
            else:
                features.append(kept.reshape(*kept.shape[:2], -1).astype(np.float32))
        return [*([np.concatenate(features, axis=2)] if features else []), *rasters]


def find(stacked: Space, count: int, order: Order | None) -> Frames:
    """Return how the observations of a space are stacked.

    `order` is what was said to VecFrameStack, None for its own rule. Raises ValueError for a space
    that is not of so many frames.
    """
    found = {
        key: _frame(key, part, count, order) for key, part in sb3_spaces.parts(stacked).items()
    }
    parts = {key: part for key, (_, part) in found.items()}
    space = parts[None] if None in parts else spaces.Dict(sb3_images.ordered(parts))
    return Frames(count, space, stacked, {key: one for key, (one, _) in found.items()})


def _frame(
    key: str | None, part: Space, count: int, order: Order | None
) -> tuple[Order, spaces.Box]:
    """Return along which dimension a part is stacked, and the space of one frame of it."""
    if not isinstance(part, spaces.Box):
        raise ValueError(
            f"--frame-stack: VecFrameStack stacks a Box alone, and {sb3_spaces.named(key)} is a "
            f"{type(part).__name__}: leave --frame-stack away"
        )
    found = []
    for name in ORDERS:
        axis = _AXES[name]
        size = part.shape[axis] if part.shape else 1
        if size % count:
            continue
        low, high = (side.take(range(0, size, count), axis) for side in (part.low, part.high))
        one = spaces.Box(low, high, dtype=part.dtype.type)
        first = is_image_space(one) and sb3_images.channels_first(one.shape)
        own = order or ("first" if first else "last")
        same = (np.repeat(one.low, count, axis), np.repeat(one.high, count, axis))
        if own == name and all(map(np.array_equal, same, (part.low, part.high))):
            found.append((name, one))
    if len(found) == 1:
        return found[0]
    sizes = " × ".join(map(str, part.shape))
    why = (
        "may be stacked along its first or its last" if found else "are not so many frames along a"
    )
    raise ValueError(
        f"--frame-stack {count}: {sb3_spaces.named(key)} has {sizes} numbers, which {why} "
        "dimension: say as many as VecFrameStack had, and its channels_order with --channels-order"
    )


def outside(path: Path, frames: Frames, action: Any) -> Preprocessing | None:
    """Return how stacks are normalised by the pickle in a file, if it is for stacks.

    `action` is the action space, of a card. Returns None if it is for single frames. Raises
    ArtifactError if it is for neither.
    """
    try:
        record = pickles.load(files.read(path, "pickle"))
    except ValueError:
        return None  # the artifact says what is wrong with it
    whys = []
    for space in (frames.space, frames.stacked):
        try:
            signature = Signature(sb3_spaces.parsed(space), action)
            made = preprocessor.lower(record, signature)
            return None if space is frames.space else made
        except ValueError as error:
            whys.append(str(error))
    raise ArtifactError(
        f"{path}: it fits neither one frame ({whys[0]}) nor {frames.count} stacked ones "
        f"({whys[1]}): give the statistics that were saved beside the policy, and its --frame-stack"
    )


class Stacks:
    """The stacks of Stable-Baselines3 itself, for one environment."""

    def __init__(self, frames: Frames, normalised: Preprocessing | None) -> None:
        """Take how frames are stacked, and how a stack is normalised then."""
        self._frames, self._normalised = frames, normalised
        self._held = {
            key: StackedObservations[Any](1, frames.count, part, frames.orders[key])  # type: ignore[arg-type]
            for key, part in sb3_spaces.parts(frames.space).items()
        }

    def step(self, batch: Parts, start: bool) -> tuple[Parts, list[NDArray[Any]]]:
        """Return what the policy sees of a frame, and the state after it."""
        seen: dict[str | None, NDArray[Any]] = {}
        for key, values in batch.items():
            held = self._held[key]
            made = held.reset(values) if start else held.update(values, np.array([False]), [{}])[0]
            seen[key] = made.copy()
        after = self._frames.earlier(seen)
        if self._normalised is not None:
            told = self._normalised
            keys = [sb3_spaces.key(leaf) for leaf in told.vectors]
            features = told.features(told.flatten([seen[key] for key in keys]))
            for key, leaf in zip(keys, told.vectors, strict=True):
                start_, stop = told.columns[leaf.path]
                seen[key] = features[:, start_:stop].reshape(-1, *leaf.space.shape)
        return seen, after


class Stacked(nn.Module):
    """An actor of stacked frames that takes one of them: features, rasters, state → as the actor.

    The earlier frames are before the actor's own state. Where a stack is normalised, that is done
    here, in float64.
    """

    def __init__(self, actor: Actor, frames: Frames, normalised: Preprocessing | None) -> None:
        """Take what `Stacks` does, too."""
        super().__init__()
        self.actor, self.leaves, self.count = actor, frames.leaves, frames.count
        self.columns = feature_columns(sb3_spaces.parsed(frames.space))
        self.width = features_width(sb3_spaces.parsed(frames.space))
        self.held, self.state = len(frames.state), (*frames.state, *actor.state)
        self.takes_features = self.width > 0 or actor.mask is not None
        self.normalise = nn.ModuleList()
        if normalised is not None:
            self.normalise.extend(_Step(normalised.width, *one) for one in normalised.steps)

    def forward(self, *inputs: Tensor) -> Any:
        """Return what the actor does, and the next state."""
        split = len(inputs) - len(self.state)
        given, state = list(inputs[:split]), inputs[split:]
        features = given.pop(0) if self.takes_features else None
        new = [features[:, : self.width], *given] if features is not None and self.width else given
        seen = [
            torch.cat([before, one[:, None]], dim=1)
            for before, one in zip(state[: self.held], new, strict=True)
        ]
        flat, rasters = self._stacks(seen)
        if self.normalise:
            wide = flat[0].to(torch.float64)
            for step in self.normalise:
                wide = step(wide)
            flat = [wide.type_as(flat[0])]
        if self.actor.mask is not None and features is not None:
            flat = [torch.cat([*flat, features[:, self.width :]], dim=1)]
        made = self.actor(*flat, *rasters, *state[self.held :])
        after = [one[:, 1:] for one in seen]
        parts = made if isinstance(made, tuple) else (made,)
        own = len(parts) - len(self.actor.state)
        return (*parts[:own], *after, *parts[own:])

    def _stacks(self, seen: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the features of stacks, as one tensor if any, and their rasters."""
        flat, rasters, waiting = [], [], iter(seen[self.width > 0 :])
        for leaf, whole, order in self.leaves:
            if leaf.raster:
                frames = next(waiting)
            else:
                start, stop = self.columns[leaf.path]
                frames = seen[0][:, :, start:stop].reshape(-1, self.count, *leaf.space.shape)
            stack = torch.cat(frames.unbind(1), dim=1 if order == "first" else -1)
            if not whole.raster:
                flat.append(stack.flatten(1))
            else:
                kept = leaf.raster or whole.space.dtype == "float32"
                rasters.append(stack if kept else stack.to(getattr(torch, whole.space.dtype)))
        return ([torch.cat(flat, dim=1)] if flat else []), rasters


class _Step(nn.Module):
    """One step of `Preprocessing`; columns that it does not change are given what changes none."""

    def __init__(
        self, width: int, operation: str, values: Sequence[float], columns: Any = None
    ) -> None:
        super().__init__()
        self.operation = operation
        of = slice(*(columns or (0, width)))
        ends = zip(values, strict=True) if operation == "clip" else (values,)
        nothing = {"clip": (-np.inf, np.inf), "multiply": (1.0,), "divide": (1.0,)}
        for index, (one, plain) in enumerate(
            zip(ends, nothing.get(operation, (0.0,)), strict=True)
        ):
            wide = np.full(width, plain)
            wide[of] = one
            self.register_buffer(f"values_{index}", torch.from_numpy(wide))

    def forward(self, given: Tensor) -> Tensor:
        values = list(self.buffers())
        if self.operation == "clip":
            return torch.minimum(torch.maximum(given, values[0]), values[1])
        operation: Any = getattr(torch, self.operation)
        made: Tensor = operation(given, values[0])
        return made
