"""The served policy as one pure graph in PyTorch: features and noise → action.

`action = squash(mean(features) + std(features) · noise)`, then mapped and clipped to
`[throttle 0..1, brake 0..1, steer -1..1]`. Every format is exported from this module.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from converters.artifact.card import Activation, Architecture, ModelCard

ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
}

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
"""Bounds of a state-dependent log standard deviation, as in Stable-Baselines3's SAC."""


class Gaussian(nn.Module):
    """Mean and standard deviation of a diagonal Gaussian over the policy's own action.

    Its state dict is the content of `model.pt`: `body.N.*`, `mean.*`, and `log_std` (a vector) or
    `log_std.*` (a layer).
    """

    def __init__(self, features: int, actions: int, architecture: Architecture, std: str) -> None:
        """Make the layers; `std` as in `card.Distribution`."""
        super().__init__()
        layers: list[nn.Module] = []
        width = features
        for hidden in architecture.hidden:
            layers += [nn.Linear(width, hidden), ACTIVATIONS[architecture.activation]()]
            width = hidden
        self.body = nn.Sequential(*layers)
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


class Scripted(nn.Module):
    """A TorchScript artifact: (n, features) → mean, or mean and standard deviation."""

    def __init__(self, program: torch.jit.ScriptModule, std: str) -> None:
        """Wrap the loaded program."""
        super().__init__()
        self.program = program
        self.has_std = std != "none"

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(n, features) → mean and standard deviation, each (n, actions)."""
        if self.has_std:
            mean, std = self.program(features)
            return mean, std
        mean = self.program(features)
        return mean, torch.zeros_like(mean)


class Policy(nn.Module):
    """(n, features) and (n, actions) of noise → (n, 3): throttle, brake, steer."""

    # TorchScript writes this name into every program. It stays the same wherever this file moves,
    # so that the same artifact always gives the same export.
    __module__ = "converters.policy"

    low: Tensor
    high: Tensor

    def __init__(self, gaussian: nn.Module, card: ModelCard) -> None:
        """Apply the card's squashing, bounds and layout to the output of `gaussian`."""
        super().__init__()
        self.gaussian = gaussian
        self.squashed = card.distribution.squash == "tanh"
        layout = list(card.action.layout)
        self.pedals = "throttle" in layout
        self.first = layout.index("throttle" if self.pedals else "acceleration")
        self.brake = layout.index("brake") if self.pedals else -1
        self.steer = layout.index("steer")
        self.register_buffer("low", torch.tensor(card.action.low))
        self.register_buffer("high", torch.tensor(card.action.high))

    def forward(self, features: Tensor, noise: Tensor) -> Tensor:
        """Return the action. With zero noise it is the deterministic one."""
        mean, std = self.gaussian(features)
        raw = mean + std * noise
        if self.squashed:
            raw = self.low + 0.5 * (torch.tanh(raw) + 1.0) * (self.high - self.low)
        else:
            raw = torch.minimum(torch.maximum(raw, self.low), self.high)
        steer = raw[:, self.steer : self.steer + 1].clamp(-1.0, 1.0)
        first = raw[:, self.first : self.first + 1]
        brake = raw[:, self.brake : self.brake + 1] if self.pedals else -first
        return torch.cat([first.clamp(0.0, 1.0), brake.clamp(0.0, 1.0), steer], dim=1)
