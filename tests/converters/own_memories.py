"""Modules with a memory, as people write them, for `carlarl import-torch`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributions, nn

SEEN, HIDDEN = 5, 8


def _net() -> None:
    torch.manual_seed(3)


class Lstm(nn.Module):
    """An LSTM of two layers; rows first, as a card has it."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        _net()
        self.lstm = nn.LSTM(SEEN, HIDDEN, 2)
        self.head = nn.Linear(HIDDEN, outputs)
        for name, one in self.named_parameters():  # a bias may count for more than all
            nn.init.zeros_(one) if "bias" in name else nn.init.uniform_(one, -0.6, 0.6)

    def step(self, seen: Tensor, h: Tensor, c: Tensor) -> Any:
        before = h.transpose(0, 1).contiguous(), c.transpose(0, 1).contiguous()
        made, (h, c) = self.lstm(seen[None], before)
        return 3 * self.head(made[0]), (h.transpose(0, 1), c.transpose(0, 1))

    def forward(self, seen: Tensor, h: Tensor, c: Tensor) -> Any:
        made, (h, c) = self.step(seen, h, c)
        return made, h, c


class Gru(nn.Module):
    """A cell, with mean and standard deviation, and a count of its steps."""

    def __init__(self) -> None:
        super().__init__()
        _net()
        self.cell, self.head = nn.GRUCell(SEEN, HIDDEN), nn.Linear(HIDDEN, 4)

    def forward(self, seen: Tensor, hidden: Tensor, count: Tensor) -> Any:
        hidden = self.cell(seen, hidden)
        mean, std = self.head(hidden).tanh().chunk(2, dim=1)
        return mean + 0.1 * (count % 3), std.exp(), hidden, count + 1


class Drawn(Lstm):
    """A distribution, and the state as a layer gives it."""

    def forward(self, seen: Tensor, h: Tensor, c: Tensor) -> Any:
        made, state = self.step(seen, h, c)
        return distributions.Categorical(logits=made), state


class Torchs(Lstm):
    """The layers first, as layers of torch have it."""

    def forward(self, seen: Tensor, h: Tensor, c: Tensor) -> Any:
        made, (h, c) = self.lstm(seen[None], (h, c))
        return 3 * self.head(made[0]), h, c


class Forgets(Lstm):
    """It leaves the next state away."""

    def forward(self, seen: Tensor, h: Tensor, c: Tensor) -> Any:
        return self.step(seen, h, c)[0]


class Deaf(Lstm):
    """The state that it is given counts for nothing."""

    def forward(self, seen: Tensor, h: Tensor, c: Tensor) -> Any:
        made, (h, c) = self.step(seen, torch.zeros_like(h), c)
        return made, h, c


class Stays(Lstm):
    """The state never changes."""

    def forward(self, seen: Tensor, h: Tensor, c: Tensor) -> Any:
        made, (_, after) = self.step(seen, h, c)
        return made, h, after


class Turned(Lstm):
    """One state has another shape, and they come out in another order."""

    def forward(self, seen: Tensor, h: Tensor, c: Tensor) -> Any:
        made, (h, c) = self.step(seen, h, c.unflatten(1, (2, HIDDEN)))
        return made, c.flatten(1), h


class Half(Lstm):
    """It gives another type than it takes."""

    def forward(self, seen: Tensor, h: Tensor, c: Tensor) -> Any:
        made, (h, c) = self.step(seen, h, c)
        return made, h.double(), c


class Keeps(nn.Module):
    """It keeps its state inside."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(SEEN, HIDDEN), nn.Linear(HIDDEN, 2)
        self.hidden = torch.zeros(1, HIDDEN)

    def forward(self, seen: Tensor) -> Tensor:
        self.hidden = self.cell(seen, self.hidden.expand(seen.shape[0], 8))
        made: Tensor = self.head(self.hidden)
        return made
