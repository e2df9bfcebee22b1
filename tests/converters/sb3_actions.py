"""What Stable-Baselines3 computes before and behind an actor's network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from converters.importers import sb3_images
from converters.importers.sb3_actor import Actor, actor_of
from converters.importers.sb3_images import Images
from converters.importers.sb3_spaces import Space, parsed
from converters.importers.sb3_zip import SavedPolicy
from policy_spec.graph import choices
from policy_spec.leaves import leaves


def actor_and_images(saved: SavedPolicy, layout: Any = None) -> tuple[Actor, Images]:
    """Return the deciding network, and how callers send what it sees."""
    images = sb3_images.find(saved, layout, lambda _: None)
    return actor_of(saved, images), images


def distribution(saved: SavedPolicy, batch: Any, **masks: Any) -> Any:
    """Return the library's own distribution for a batch; a list where there is one per branch."""
    tensors, _ = saved.policy.obs_to_tensor(batch)
    if saved.algorithm in ("SAC", "TQC", "CrossQ"):
        saved.policy.actor(tensors)
        return saved.policy.actor.action_dist.distribution
    told = saved.policy.get_distribution(tensors, **masks)
    return told.distributions if hasattr(told, "distributions") else told.distribution


def inputs(space: Space, batch: Any) -> list[Tensor]:
    """Return the flat features of a batch, shape (n, features), if there are any, and its rasters.

    `batch` is an array with n rows, or for a Dict a dictionary of such arrays.
    """
    columns, rasters = [], []
    for leaf in leaves(parsed(space)):
        rows = np.asarray(batch[leaf.path[0]] if leaf.path else batch)
        if leaf.raster:
            rasters.append(torch.from_numpy(rows))
            continue
        rows = rows.reshape(len(rows), -1)
        if codes := choices(leaf.space):
            branches = zip(rows.T, codes, strict=True)
            rows = np.concatenate([np.eye(len(one))[row] for row, one in branches], axis=1)
        columns.append(rows)
    if not columns:
        return rasters
    return [torch.from_numpy(np.concatenate(columns, axis=1).astype(np.float32)), *rasters]


def act(actor: Actor, space: Space, given: list[Tensor]) -> Tensor:
    """Return the deterministic actions, shape (n, …), as the policy's own `predict` does."""
    output = actor(*given)
    mean: Tensor = output[0] if actor.output == "gaussian" else output
    if isinstance(space, spaces.Discrete):
        return mean.argmax(1)
    if isinstance(space, spaces.MultiDiscrete):
        branches = torch.split(mean, space.nvec.ravel().tolist(), dim=1)
        return torch.stack([branch.argmax(1) for branch in branches], dim=1)
    if isinstance(space, spaces.MultiBinary):
        return mean > 0
    assert isinstance(space, spaces.Box)
    low, high = torch.from_numpy(space.low).ravel(), torch.from_numpy(space.high).ravel()
    if actor.squash == "tanh":
        mean = low + 0.5 * (torch.tanh(mean) + 1.0) * (high - low)
    else:
        mean = torch.minimum(torch.maximum(mean, low), high)
    return mean.reshape(-1, *space.shape)
