"""A policy that remembers, with random weights: a program to try imports and speed with.

Example: python -m examples.lstm 256 program.pt
"""

from __future__ import annotations

import sys

import torch
from torch import nn


class LSTM(nn.Module):
    """One layer over today's observations: features, h and c → three actions, and the next h and c.

    Features are of shape (n, 7), h and c of (n, 1, hidden), and so is what they become.
    """

    def __init__(self, hidden: int) -> None:
        """Draw the weights, the same at each time."""
        super().__init__()
        torch.manual_seed(7)
        self.lstm = nn.LSTM(7, hidden)
        self.mean = nn.Linear(hidden, 3)

    def forward(
        self, features: torch.Tensor, h: torch.Tensor, c: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the action's mean and the next state."""
        made, (h, c) = self.lstm(
            features.unsqueeze(0), (h.transpose(0, 1).contiguous(), c.transpose(0, 1).contiguous())
        )
        return self.mean(made[0]) + 0.5, h.transpose(0, 1), c.transpose(0, 1)


class Forgetful(nn.Module):
    """The same network without a memory: each step is the first one."""

    def __init__(self, hidden: int) -> None:
        """Draw the same weights."""
        super().__init__()
        self.hidden = hidden
        self.policy = LSTM(hidden)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the action's mean."""
        empty = torch.zeros(features.shape[0], 1, self.hidden)
        mean: torch.Tensor = self.policy(features, empty, empty)[0]
        return mean


if __name__ == "__main__":
    kind = Forgetful if sys.argv[3:] == ["forgetful"] else LSTM
    program = torch.jit.script(kind(int(sys.argv[1])).eval())
    program.save(sys.argv[2])  # type: ignore[no-untyped-call]
