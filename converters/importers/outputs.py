"""What is made of a program's outputs before they are served."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from converters.importers.declared import Declared, bounds
from policy_spec.graph import choices
from policy_spec.spaces import Box, LeafSpace


def served(program: Any, declared: Declared) -> Any:
    """Return the program that gives what an artifact's must, of one that gives what is declared."""
    if declared.second is None:
        return program
    return Served(program, declared.second, declared.space)


class Served(nn.Module):
    """A program whose second output is made a standard deviation, or is left away.

    `second` says what it is, see `Declared.second`. Of alpha and beta the action alone is given, in
    the bounds `low` and `high`.
    """

    low: Tensor
    high: Tensor

    def __init__(self, program: Any, second: str, space: LeafSpace | None) -> None:
        """Take the program, and the action's space for its bounds."""
        super().__init__()
        self.program, self.second = program, second
        low, high = bounds(space) if isinstance(space, Box) else ([], [])
        self.register_buffer("low", torch.tensor(low))
        self.register_buffer("high", torch.tensor(high))

    def forward(self, *inputs: Tensor) -> Any:
        """Return the action's mean, or mean and standard deviation, or logits; then the state."""
        action, other, *state = self.program(*inputs)
        if self.second.startswith("beta"):
            part = _beta(action, other, mode=self.second == "beta mode")
            action = self.low + part * (self.high - self.low)
        elif self.second != "ignore":
            std = (other.exp() if self.second == "log-std" else other).expand_as(action)
            return action, std, *state
        return (action, *state) if state else action


def _beta(alpha: Tensor, beta: Tensor, mode: bool) -> Tensor:
    """Return the mode or the mean of a Beta distribution, from 0 to 1.

    A density that grows to one end has its mode there. Of one that grows to both ends, alpha and
    beta being 1 at most, the mean is taken, as carla-roach does.
    """
    mean = alpha / (alpha + beta)
    if not mode:
        return mean
    inside = (alpha > 1) & (beta > 1)
    top = (alpha - 1) / torch.where(inside, alpha + beta - 2, torch.ones_like(alpha))
    end = torch.where((alpha > 1) & (beta <= 1), torch.ones_like(alpha), torch.zeros_like(alpha))
    return torch.where(inside, top, torch.where((alpha <= 1) & (beta <= 1), mean, end))


class Ensemble(nn.Module):
    """The mixture of policies with equal weights: of a random member, its action.

    Of Gaussians these are the mixture's mean and standard deviation (Lakshminarayanan et al. 2017,
    "Simple and scalable predictive uncertainty estimation using deep ensembles"), of logits the
    logits of its probabilities; of actions and values the mean. A Box is clipped or squashed after
    that.
    """

    def __init__(self, members: Sequence[Any], space: LeafSpace, name: str) -> None:
        """Take programs that give what an artifact's must, of the distribution `name`."""
        super().__init__()
        self.members, self.space, self.name = nn.ModuleList(members), space, name

    def forward(self, *inputs: Tensor) -> Any:
        """Return what a member returns."""
        made = [member(*inputs) for member in self.members]
        if self.name == "gaussian":
            mean, std = (torch.stack(parts) for parts in zip(*made, strict=True))
            middle = mean.mean(dim=0)
            return middle, (std.square() + (mean - middle).square()).mean(dim=0).sqrt()
        stacked = torch.stack(made)
        if self.name == "bernoulli":
            return _mean(functional.logsigmoid(stacked)) - _mean(functional.logsigmoid(-stacked))
        if self.name == "categorical":
            widths = [len(one) for one in choices(self.space) or ()]
            parts = torch.split(stacked, widths, dim=-1)
            return torch.cat([_mean(part.log_softmax(dim=-1)) for part in parts], dim=-1)
        return stacked.mean(dim=0)


def _mean(logarithms: Tensor) -> Tensor:
    """Return the logarithm of the members' mean, of their logarithms."""
    return logarithms.logsumexp(dim=0) - math.log(len(logarithms))
