"""Small artifacts with random weights."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from converters.artifact import artifact
from converters.artifact.card import Action, Architecture, Distribution, ModelCard
from converters.artifact.observations import corners
from converters.artifact.policy import Gaussian
from policy_spec.signature import Signature, driving_space
from triton_backend.preprocessing import Preprocessing

DEFAULT = Signature.from_card(
    {
        "sensors": 5,
        "action": {"layout": ["throttle", "brake", "steer"], "low": [0, 0, -1], "high": [1, 1, 1]},
        "distribution": {"std": "parameter"},
    }
)
"""That of the default policy."""

MakeArtifact = Callable[..., Path]


def edges(sensors: int = 5) -> np.ndarray:
    """Speed, steering and sensors at the ends of their ranges, flat."""
    space = driving_space(sensors)
    return Preprocessing(space, 3).flatten(corners(space))


def make(
    folder: Path,
    *,
    sensors: int = 5,
    layout: tuple[str, ...] = ("throttle", "brake", "steer"),
    std: str = "parameter",
    squash: str = "clip",
    recorded: int = 16,
) -> Path:
    """Write the artifact `folder` (named by its version) and give it back."""
    seed = sum(folder.name.encode())
    torch.manual_seed(seed)
    architecture = Architecture(hidden=[16, 16])
    low = tuple(-1.0 if name in ("steer", "acceleration") else 0.0 for name in layout)
    card = ModelCard(
        model_name="toy",
        version=folder.name,
        model_type="pytorch",
        input_shape=[sensors + 2],
        output_shape=[len(layout)],
        framework_version="2.13.0",
        sensors=sensors,
        architecture=architecture,
        distribution=Distribution(std=std, squash=squash),
        action=Action(layout=layout, low=low, high=(1.0,) * len(layout)),
        artifact_hashes={},
    )
    width = sensors + 2
    steps = (("subtract", (0.5,) * width), ("divide", (60.0, *(0.5,) * (width - 1))))
    generator = np.random.default_rng(seed)
    observations = folder.parent / f"{folder.name}.npy"
    observations.parent.mkdir(parents=True, exist_ok=True)
    np.save(observations, generator.uniform(0, 1, (recorded, width)).astype(np.float32))
    return artifact.create(
        folder,
        card,
        artifact.state_dict_bytes(Gaussian(width, len(layout), architecture, std).state_dict()),
        pickle.dumps(Preprocessing(driving_space(sensors), len(layout), steps)),
        observations,
        check=lambda _: None,
    )


@pytest.fixture(scope="session")
def make_artifact() -> MakeArtifact:
    return make
