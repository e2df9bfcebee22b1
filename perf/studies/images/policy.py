"""A policy that sees: a NatureCNN with random weights, and its model repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from perf.load.generator import LoadError
from perf.load.processes import ROOT

VERSION, NUMBER = "v1.0.0", "1000000"
Shape = tuple[int, int, int]

_SPEC = """
observation_space: {{type: Box, dtype: uint8, shape: {shape}, low: 0, high: 255}}
action_space: {{type: Box, dtype: float32, shape: [3], low: [0, 0, -1], high: [1, 1, 1]}}
control: {{layout: [throttle, brake, steer]}}
distribution: {{noise: none}}
"""


class NatureCNN(nn.Module):
    """Stable-Baselines3's layers for images, and three actions: uint8 (n, H, W, C) → (n, 3)."""

    def __init__(self, shape: Shape) -> None:
        """Draw its weights, the same at each time."""
        super().__init__()
        torch.manual_seed(7)
        self.layers = nn.Sequential(
            *(nn.Conv2d(shape[2], 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, 1), nn.ReLU(), nn.Flatten()),
        )
        with torch.no_grad():
            width = self.layers(torch.zeros(1, shape[2], *shape[:2])).shape[1]
        self.head = nn.Sequential(nn.Linear(width, 512), nn.ReLU(), nn.Linear(512, 3))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the action's mean."""
        seen = self.layers(pixels.permute(0, 3, 1, 2).float() / 255.0)
        mean: torch.Tensor = self.head(seen) + 0.5  # well within the bounds
        return mean


def picture(shape: Shape, seed: int = 1) -> NDArray[np.uint8]:
    """Return pixels that a PNG halves: waves, with some noise."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]][..., None] / 9
    phase = draw.uniform(0, 6, shape[2])
    waves = (np.sin(x + phase) + np.cos(y - phase) + 2) * 60
    return np.asarray(waves + draw.integers(0, 8, shape), np.uint8)


def export(shape: Shape, folder: Path) -> Path:
    """Write the model repository of the policy into `folder` and return it. Raises LoadError."""
    program, spec, artifacts = (folder / name for name in ("program.pt", "spec.yaml", "artifacts"))
    repository = folder / "repository"
    torch.jit.script(NatureCNN(shape).eval()).save(program)  # type: ignore[no-untyped-call]
    spec.write_text(_SPEC.format(shape=list(shape)))
    for command in (
        ["import-torchscript", program, "--version", VERSION, "--spec", spec],
        ["export", "--formats", "onnx", "--repository", repository],
    ):
        words = map(str, [sys.executable, "-m", "carlarl", *command, "--artifacts", artifacts])
        done = subprocess.run([*words], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise LoadError((done.stderr or done.stdout).strip())
    return repository
