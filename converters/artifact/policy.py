"""The served policy as one pure graph in PyTorch: features, noise and rasters → action.

A network gives the parameters of a distribution, the action is made of them and the noise, and the
card's control maps it. Every format is exported from this module.
"""

from typing import Any

import torch
from torch import Tensor, nn

from converters.artifact.card import Activation, Architecture, ModelCard
from policy_spec.control import RANGES, Lookup
from policy_spec.graph import choices, feature_width, features_width
from policy_spec.leaves import Leaf
from policy_spec.spaces import Box, MultiBinary, at
from triton_backend.preprocessing import Preprocessing

ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
}

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
"""Bounds of a state-dependent log standard deviation, as in Stable-Baselines3's SAC."""


def _body(features: int, architecture: Architecture) -> tuple[nn.Sequential, int]:
    layers: list[nn.Module] = []
    width = features
    for hidden in architecture.hidden:
        layers += [nn.Linear(width, hidden), ACTIVATIONS[architecture.activation]()]
        width = hidden
    return nn.Sequential(*layers), width


class Gaussian(nn.Module):
    """Mean and standard deviation of a diagonal Gaussian over the policy's own action.

    Its state dict is the content of `model.pt`: `body.N.*`, `mean.*`, and `log_std` (a vector) or
    `log_std.*` (a layer).
    """

    def __init__(self, features: int, actions: int, architecture: Architecture, std: str) -> None:
        """Make the layers; `std` as in `card.Distribution`."""
        super().__init__()
        self.body, width = _body(features, architecture)
        self.mean = nn.Linear(width, actions)
        self.log_std: Any = None
        if std == "parameter":
            self.log_std = nn.Parameter(torch.zeros(actions))
        elif std == "network":
            self.log_std = nn.Linear(width, actions)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(n, features) → mean and standard deviation, each (n, actions)."""
        latent = self.body(features)
        mean = self.mean(latent)
        if self.log_std is None:
            return mean, torch.zeros_like(mean)
        if isinstance(self.log_std, nn.Linear):
            return mean, self.log_std(latent).clamp(LOG_STD_MIN, LOG_STD_MAX).exp()
        return mean, self.log_std.exp().expand_as(mean)


class Logits(nn.Module):
    """Logits of a discrete action. Its state dict: `body.N.*` and `logits.*`."""

    def __init__(self, features: int, logits: int, architecture: Architecture) -> None:
        """Make the layers."""
        super().__init__()
        self.body, width = _body(features, architecture)
        self.logits = nn.Linear(width, logits)

    def forward(self, features: Tensor) -> Tensor:
        """(n, features) → (n, logits)."""
        logits: Tensor = self.logits(self.body(features))
        return logits


def network(features: int, card: ModelCard) -> nn.Module:
    """Return the untrained network of a card with an architecture."""
    assert card.architecture is not None  # the card's own check
    width = feature_width(card.signature.action_space)  # a logit for each value
    if isinstance(card.signature.action_space, Box):
        return Gaussian(features, width, card.architecture, card.distribution.std)
    return Logits(features, width, card.architecture)


class Scripted(nn.Module):
    """A TorchScript or ONNX artifact: features and rasters → mean, mean and std, or logits."""

    def __init__(self, program: nn.Module, card: ModelCard) -> None:
        """Wrap the loaded program, or the `Network`."""
        super().__init__()
        self.program = program
        self.box = isinstance(card.signature.action_space, Box)
        self.has_std = card.distribution.std != "none"
        self.width = feature_width(card.signature.action_space)
        self.takes_features = features_width(card.signature.observation_space) > 0

    def run(self, features: Tensor, *rasters: Tensor) -> Any:
        """Call the program. It takes the rasters alone where an observation has no features."""
        return self.program(*((features,) if self.takes_features else ()), *rasters)

    def forward(self, features: Tensor, *rasters: Tensor) -> Any:
        """(n, features), (n, …) → what `Gaussian` or `Logits` gives, in the features' type."""
        made = self.run(features, *rasters)
        given = made if isinstance(made, tuple) else (made,)
        # A program may compute in another type than its caller's.
        parts = [part if part.dtype == features.dtype else part.to(features) for part in given]
        if not self.box:
            return parts[0]
        return parts[0], (parts[1] if self.has_std else torch.zeros_like(parts[0]))

    def check(self, features: Tensor, *rasters: Tensor) -> None:
        """Run the program; raise ValueError for outputs of another number, shape or kind."""
        made = self.run(features, *rasters)
        parts = made if isinstance(made, tuple) else (made,)
        if len(parts) != 1 + self.has_std:
            raise ValueError(f"it gives {len(parts)} outputs, not {1 + self.has_std}")
        shape = (len(features), self.width)
        for part in parts:
            if not isinstance(part, Tensor) or not part.is_floating_point():
                raise ValueError("it gives something else than tensors of floats")
            if tuple(part.shape) != shape:
                raise ValueError(f"it gives the shape {tuple(part.shape)}, not {shape}")


class Policy(nn.Module):
    """Features, noise and rasters, rows first → each output of a policy model, (n, elements).

    These are the action, and the policy's own action where the control differs from it. Features
    are of shape (n, 0) where an observation is rasters alone.
    """

    # TorchScript writes this name into every program. It stays the same wherever this file moves,
    # so that the same artifact always gives the same export.
    __module__ = "converters.policy"

    low: Tensor
    high: Tensor

    def __init__(self, gaussian: nn.Module, card: ModelCard) -> None:
        """Apply the card's distribution and control to the output of `gaussian`, the network."""
        super().__init__()
        self.gaussian = gaussian
        signature = card.signature
        self.space, self.noise = signature.action_space, signature.noise
        self.squashed = card.distribution.squash == "tanh"
        self.control = signature.control
        self.two = signature.has_policy_action
        if self.control is not None:
            for name, column in zip(self.control.names, self.control.columns, strict=True):
                if isinstance(column, Lookup):
                    self.register_buffer(f"values_{name}", torch.tensor(column.values))
        if isinstance(self.space, Box):
            for name, side in (("low", self.space.low), ("high", self.space.high)):
                bounds = [float(at(side, index)) for index in range(self.space.size)]
                self.register_buffer(name, torch.tensor(bounds))

    def forward(self, features: Tensor, noise: Tensor, *rasters: Tensor) -> Any:
        """Return the action, or both. With zero noise it is the deterministic one."""
        raw = self.choose(self.scores(features, noise, *rasters))
        if self.control is None:
            return raw
        action = self.controls(raw)
        return (action, raw) if self.two else action

    def scores(self, features: Tensor, noise: Tensor, *rasters: Tensor) -> Tensor:
        """Return a Box's action before it is squashed, or logits with noise, shape (n, width)."""
        if isinstance(self.space, Box):
            mean, std = self.gaussian(features, *rasters)
            raw: Tensor = mean + (0.0 if self.noise == "none" else std) * noise
            return raw
        logits: Tensor = self.gaussian(features, *rasters)
        # Without noise its tensor stays an input, as every graph has two. ONNX drops unused ones.
        return logits + (0.0 * noise if self.noise == "none" else noise)

    def choose(self, raw: Tensor) -> Tensor:
        """Return the policy's own action of its scores, shape (n, elements)."""
        space = self.space
        if isinstance(space, MultiBinary):
            return (raw > 0).to(torch.int8)
        if isinstance(space, Box):
            if self.squashed:
                return self.low + 0.5 * (torch.tanh(raw) + 1.0) * (self.high - self.low)
            return torch.minimum(torch.maximum(raw, self.low), self.high)
        chosen, begin = [], 0
        for values in choices(space) or ():
            best = raw[:, begin : begin + len(values)].argmax(dim=1, keepdim=True)
            chosen.append(best + values.start if values.start else best)
            begin += len(values)
        return chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=1)

    def controls(self, raw: Tensor) -> Tensor:
        """Return the control's numbers, shape (n, names), of the policy's own action."""
        assert self.control is not None
        # TorchScript writes the names and the order of these variables into the program, too.
        steer = self._number("steer", raw).clamp(*RANGES["steer"])
        first = self._number("throttle", raw)
        brake = self._number("brake", raw)
        switches = [(self._number(name, raw) > 0.5).to(steer) for name in self.control.switches]
        pedals = first.clamp(*RANGES["throttle"]), brake.clamp(*RANGES["brake"])
        return torch.cat([*pedals, steer, *switches], dim=1)

    def _number(self, name: str, raw: Tensor) -> Tensor:
        """Return one number of the control before it is clipped, shape (n, 1)."""
        assert self.control is not None
        column = self.control.columns[self.control.names.index(name)]
        if isinstance(column, Lookup):
            table: Tensor = getattr(self, f"values_{name}")
            return table[raw[:, column.index : column.index + 1] - column.start]
        if (column.positive, column.negative, column.offset) == (1.0, 1.0, 0.0):
            return raw[:, column.index : column.index + 1]
        value = raw[:, column.index : column.index + 1]
        scaled = torch.where(value > 0, value * column.positive, value * column.negative)
        return scaled + column.offset


def zeros(preprocessing: Preprocessing, rows: int) -> list[Tensor]:
    """Return so many rows of zeros for `Policy`: features, noise and rasters."""
    return [
        torch.zeros(rows, preprocessing.width),
        torch.zeros(rows, preprocessing.noise),
        *(zeros_of(leaf, rows) for leaf in preprocessing.rasters),
    ]


def zeros_of(leaf: Leaf, rows: int) -> Tensor:
    """Return so many rows of zeros of one leaf, in its own type and shape."""
    return torch.zeros(rows, *leaf.space.shape, dtype=getattr(torch, leaf.space.dtype))
