"""A policy that sees, with random weights: a TorchScript program to try imports and speed with.

Example: python -m examples.nature_cnn 96,96,3 program.pt
"""

from __future__ import annotations

import sys

import torch
from torch import nn


class NatureCNN(nn.Module):
    """Stable-Baselines3's layers for images, and three actions: uint8 (n, H, W, C) → (n, 3)."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        """Draw the weights, the same at each time."""
        super().__init__()
        torch.manual_seed(7)
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, 1), nn.ReLU(), nn.Flatten()),
        )
        with torch.no_grad():
            features = self.layers(torch.zeros(1, channels, height, width)).shape[1]
        self.head = nn.Sequential(nn.Linear(features, 512), nn.ReLU(), nn.Linear(512, 3))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the action's mean, well within the bounds of a pedal."""
        seen = self.layers(pixels.permute(0, 3, 1, 2).float() / 255.0)
        mean: torch.Tensor = self.head(seen) + 0.5
        return mean


if __name__ == "__main__":
    program = torch.jit.script(NatureCNN(*map(int, sys.argv[1].split(","))).eval())
    program.save(sys.argv[2])  # type: ignore[no-untyped-call]
