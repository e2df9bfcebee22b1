"""The served policy as one pure graph in PyTorch: features, noise, rasters and state → action.

A network gives the parameters of a distribution, the action is made of them and the noise, and the
card's control maps it. Every format is exported from this module.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from converters.artifact.card import Activation, Architecture, ModelCard
from policy_spec.control import RANGES, Lookup
from policy_spec.graph import (
    Input,
    choices,
    feature_width,
    features_width,
    graph_inputs,
    program_inputs,
)
from policy_spec.signature import Signature
from policy_spec.spaces import Box, MultiBinary, at

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
    """A TorchScript or ONNX artifact: features and rasters → mean, mean and std, or logits.

    That of a policy with a memory takes its state behind them, and gives the next state behind.
    """

    def __init__(self, program: nn.Module, card: ModelCard) -> None:
        """Wrap the loaded program, or the `Network`."""
        super().__init__()
        self.program = program
        self.box = isinstance(card.signature.action_space, Box)
        self.has_std = card.distribution.std != "none"
        self.width = feature_width(card.signature.action_space)
        self.signature = card.signature
        self.takes_features = features_width(card.signature.observation_space) > 0

    def forward(self, features: Tensor, *others: Tensor) -> Any:
        """(n, features), (n, …) → what `Gaussian` or `Logits` gives, in the features' type.

        The next state follows, where the policy has one. The program takes no features where an
        observation is rasters alone.
        """
        made = self.program(*((features,) if self.takes_features else ()), *others)
        given = made if isinstance(made, tuple) else (made,)
        # A program may compute in another type than its caller's.
        parts = [part if part.dtype == features.dtype else part.to(features) for part in given]
        if not self.box:
            scores = parts[0]
        else:
            scores = parts[0], (parts[1] if self.has_std else torch.zeros_like(parts[0]))
        return (scores, *given[1 + self.has_std :]) if self.signature.stateful else scores

    def check(self) -> None:
        """Run the program; raise ValueError for outputs of another number, shape or kind."""
        state, rows = self.signature.state, 2
        taken = program_inputs(self.signature.observation_space, state)
        made = self.program(*zeros_of(taken, rows))
        parts = made if isinstance(made, tuple) else (made,)
        own = 1 + self.has_std
        if len(parts) != own + len(state):
            more = f" and {len(state)} of its state" if state else ""
            raise ValueError(f"it gives {len(parts)} outputs, not {own}{more}")
        if not all(isinstance(part, Tensor) for part in parts):
            raise ValueError("it gives something else than tensors")
        for part in parts[:own]:
            if not part.is_floating_point():
                raise ValueError("it gives something else than tensors of floats")
            if tuple(part.shape) != (rows, self.width):
                raise ValueError(f"it gives the shape {tuple(part.shape)}, not {rows, self.width}")
        for leaf, part in zip(state, parts[own:], strict=True):
            if tuple(part.shape) != (rows, *leaf.shape) or part.dtype != getattr(torch, leaf.dtype):
                raise ValueError(
                    f"it gives the next {leaf.name} as {part.dtype} of shape {tuple(part.shape)}, "
                    f"not {leaf.dtype} of {(rows, *leaf.shape)}"
                )


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
        return self.with_noise(self.gaussian(features, *rasters), noise)

    def with_noise(self, given: Any, noise: Tensor) -> Tensor:
        """Return the scores, shape (n, width), of what the network gives."""
        if isinstance(self.space, Box):
            mean, std = given
            raw: Tensor = mean + (0.0 if self.noise == "none" else std) * noise
            return raw
        logits: Tensor = given
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


class StatefulPolicy(Policy):
    """A `Policy` with a memory: it takes its state, and gives the next one behind its actions.

    Behind the rasters it takes `episode_start`, (n, 1) and bool, and each leaf of the state. The
    state of a row where an episode starts is taken as zero, whatever it is.
    """

    __module__ = Policy.__module__

    def __init__(self, program: nn.Module, card: ModelCard) -> None:
        """Apply the card's distribution and control to the output of the `program`."""
        super().__init__(program, card)
        self.leaves = len(card.signature.state)

    def forward(self, features: Tensor, noise: Tensor, *others: Tensor) -> Any:
        """Return the action, the policy's own where it differs, and each leaf of the next state."""
        scores, *after = self.step(features, noise, *others)
        raw = self.choose(scores)
        if self.control is None:
            return (raw, *after)
        action = self.controls(raw)
        return (action, raw, *after) if self.two else (action, *after)

    def scores(self, features: Tensor, noise: Tensor, *others: Tensor) -> Tensor:
        """As those of `Policy`."""
        return self.step(features, noise, *others)[0]

    def step(self, features: Tensor, noise: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """Return the scores and each leaf of the next state."""
        split = len(others) - self.leaves
        *rasters, episode_start = others[:split]
        state = [
            one.masked_fill(episode_start.view(-1, *[1] * (one.dim() - 1)), 0)
            for one in others[split:]
        ]
        given, *after = self.gaussian(features, *rasters, *state)
        return (self.with_noise(given, noise), *after)


def zeros(signature: Signature, rows: int) -> list[Tensor]:
    """Return so many rows of zeros for `Policy`, of features and all that follows them."""
    made = zeros_of(graph_inputs(signature), rows)
    wide = features_width(signature.observation_space)
    return made if wide else [torch.zeros(rows, 0), *made]


def zeros_of(inputs: Sequence[Input], rows: int) -> list[Tensor]:
    """Return so many rows of zeros for each input."""
    return [torch.zeros(rows, *one.shape, dtype=getattr(torch, one.dtype)) for one in inputs]
