"""What a network takes in an observation's place, of the features and rasters that are served."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from policy_spec.graph import choices, feature_columns
from policy_spec.leaves import Path, leaves
from policy_spec.spaces import Dict, LeafSpace, MultiBinary, Space, Tuple


class Observed(nn.Module):
    """(n, features) and rasters → an observation: a tensor, or a dict or a tuple of them.

    Each part is what Gymnasium gives, see `import_torch`. With `coded` it is what the features
    extractors of Stable-Baselines3 take: floats, of a Discrete or a MultiDiscrete one-hot codes.
    Without features the rasters come alone.
    """

    most: Tensor

    def __init__(
        self, space: Space, first: Iterable[Path], scaled: Iterable[Path], coded: bool = False
    ) -> None:
        """Take the parts whose channels go to the front, and those that are divided by 255."""
        super().__init__()
        self.space, self.coded = space, coded
        self.first, self.scaled = frozenset(first), frozenset(scaled)
        self.register_buffer("most", torch.tensor(255.0))

    def forward(self, *inputs: Tensor) -> Any:
        """Return the observation."""
        waiting, places = list(inputs), feature_columns(self.space)
        features = waiting.pop(0) if places else None
        found: dict[Path, Tensor] = {}
        for leaf in leaves(self.space):
            if features is None or leaf.raster:
                part = waiting.pop(0)
            else:
                start, stop = places[leaf.path]
                part = value(leaf.space, features[:, start:stop], self.coded)
            if self.coded or leaf.path in self.scaled or part.is_floating_point():
                part = part.type_as(self.most)  # the type in which the network computes
            if leaf.path in self.first:
                part = part.permute(0, 3, 1, 2)
            found[leaf.path] = part / self.most if leaf.path in self.scaled else part
        return _nested(self.space, found, ())


def value(space: LeafSpace, features: Tensor, coded: bool = False) -> Tensor:
    """Return a leaf of its features: numbers in its shape; of one-hot codes the values, (n, …)."""
    branches = choices(space)
    if branches is None:
        made = features.reshape(-1, *space.shape)
        return made.to(torch.int8) if isinstance(space, MultiBinary) and not coded else made
    if coded:
        return features
    codes = torch.split(features, [len(one) for one in branches], dim=1)
    found = [code.argmax(dim=1) + one.start for code, one in zip(codes, branches, strict=True)]
    return torch.stack(found, dim=1) if space.shape else found[0]


def _nested(space: Space, found: dict[Path, Tensor], path: Path) -> Any:
    if isinstance(space, Dict):
        return {key: _nested(part, found, (*path, key)) for key, part in space.subspaces}
    if isinstance(space, Tuple):
        parts = enumerate(space.subspaces)
        return tuple(_nested(part, found, (*path, str(index))) for index, part in parts)
    return found[path]
