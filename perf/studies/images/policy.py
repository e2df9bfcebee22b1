"""A policy that sees: its model repository, and pictures for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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


def picture(shape: Shape, seed: int = 1) -> NDArray[np.uint8]:
    """Return pixels that a PNG halves: waves, with some noise."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]][..., None] / 9
    phase = draw.uniform(0, 6, shape[2])
    waves = (np.sin(x + phase) + np.cos(y - phase) + 2) * 60
    return np.asarray(waves + draw.integers(0, 8, shape), np.uint8)


def export(shape: Shape, folder: Path) -> Path:
    """Write the repository of `examples.nature_cnn` into `folder`; return it. Raises LoadError."""
    program, spec, repository = (folder / one for one in ("program.pt", "spec.yaml", "repository"))
    spec.write_text(_SPEC.format(shape=list(shape)))
    artifacts = ["--artifacts", folder / "artifacts"]
    for command in (
        ["examples.nature_cnn", ",".join(map(str, shape)), program],
        [
            "carlarl",
            "import-torchscript",
            program,
            "--version",
            VERSION,
            "--spec",
            spec,
            *artifacts,
        ],
        ["carlarl", "export", "--formats", "onnx", "--repository", repository, *artifacts],
    ):
        words = map(str, [sys.executable, "-m", *command])
        done = subprocess.run([*words], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise LoadError((done.stderr or done.stdout).strip())
    return repository
