"""Policies of any signature with random weights, and random signatures."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from converters.artifact import artifact, pickles
from converters.artifact.card import Architecture, Distribution, ModelCard
from converters.artifact.policy import network
from converters.importers import programs
from policy_spec.graph import program_inputs
from policy_spec.leaves import leaves
from policy_spec.parsing import parse_space
from policy_spec.spaces import Box
from triton_backend.preprocessing import Preprocessing

Data = dict[str, Any]


class Seeing(nn.Module):
    """A policy that sees: a small convolution of each raster, and then the `head` of all numbers.

    A raster of three dimensions has its channels last. It is scaled here, by 255 if it is uint8.
    """

    def __init__(self, preprocessing: Preprocessing, head: Callable[[int], nn.Module]) -> None:
        super().__init__()
        shapes = [leaf.space.shape for leaf in preprocessing.rasters]
        channels = [shape[2] if len(shape) == 3 else 1 for shape in shapes]
        self.scales = [255 if one.space.dtype == "uint8" else 1 for one in preprocessing.rasters]
        self.eyes = nn.ModuleList(
            nn.Sequential(nn.Conv2d(one, 4, 3, 2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
            for one in channels
        )
        self.head = head(preprocessing.width + 4 * len(shapes))

    def forward(self, *inputs: torch.Tensor) -> Any:
        first = len(inputs) - len(self.eyes)
        seen = list(inputs[:first])
        for raster, eye, scale in zip(inputs[first:], self.eyes, self.scales, strict=True):
            image = raster.float() / scale
            image = image[:, None] if image.ndim == 3 else image.permute(0, 3, 1, 2)
            seen.append(eye(image).flatten(1))
        return self.head(torch.cat(seen, dim=1))


def make(folder: Path, data: Data, *, pickled: bytes = pickles.NOTHING, **more: Any) -> Path:
    """Write the artifact of a policy with the signature `data` and random weights.

    It is a TorchScript program where the observation has a raster.
    """
    torch.manual_seed(sum(folder.name.encode()))
    fields = {**data, **more.pop("card", {})}
    card = ModelCard.model_validate(
        {
            "model_name": "toy",
            "version": folder.name,
            "model_type": "torchscript" if sees(fields["observation_space"]) else "pytorch",
            "framework_version": "2.13.0",
            "architecture": Architecture(hidden=[16], activation="relu"),
            "artifact_hashes": {},
            **fields,
        }
    )
    preprocessing = Preprocessing.of(card.signature)
    if preprocessing.rasters:
        policy: nn.Module = Seeing(preprocessing, lambda width: network(width, card))
    else:
        policy = network(preprocessing.width, card)
    for one in policy.parameters():
        nn.init.uniform_(one, -0.5, 0.5)
    model = artifact.state_dict_bytes(policy.state_dict())
    if preprocessing.rasters:
        # Like the program of a policy without a standard deviation.
        fixed = isinstance(card.signature.action_space, Box) and card.distribution.std == "none"
        made = _First(policy) if fixed else policy
        model = programs.trace(made, program_inputs(card.signature.observation_space))
    given = {"observations": None, "check": lambda _: None} | more
    return artifact.create(folder, card, model, pickled, **given)


def sees(space: Data) -> bool:
    return any(leaf.raster for leaf in leaves(parse_space(space, "observation_space")))


class _First(nn.Module):
    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.policy(*inputs)[0]


def random_signature(seed: int) -> Data:
    """Return the card's form of a random signature: nested observations, and any action."""
    source = random.Random(seed)
    action = source.choice([_action_box, _discrete, _multi_discrete, _multi_binary])(source)
    data: Data = {"observation_space": _space(source, 3), "action_space": action}
    if action["type"] == "Box":
        program = sees(data["observation_space"])
        std, squash = (
            source.choice(["none", "parameter", "parameter" if program else "network"]),
            source.choice(["clip", "tanh"]),
        )
        data["distribution"] = Distribution(std=std, squash=squash).model_dump(exclude_none=True)
    elif source.random() < 0.2:
        data["distribution"] = {"noise": "none"}
    control = _control(source, action)
    return data | ({"control": control} if control and source.random() < 0.7 else {})


def _space(source: random.Random, depth: int) -> Data:
    kind = source.choice(["Dict", "Tuple", "leaf"]) if depth else "leaf"
    if kind == "leaf":
        kinds = [_box, _box, _discrete, _multi_discrete, _multi_binary, _raster]
        return source.choice(kinds)(source)
    parts = [_space(source, depth - 1) for _ in range(source.randint(1, 3))]
    if kind == "Tuple":
        return {"type": "Tuple", "subspaces": parts}
    keys = source.sample(["speed", "lidar", "a.b", "seed", "ö", "", "map", "features", "x y"], 3)
    return {"type": "Dict", "subspaces": dict(zip(keys, parts, strict=False))}


def _box(source: random.Random) -> Data:
    dtype = source.choice(["float32", "float32", "float64", "float16", "uint8", "int32", "int64"])
    shape = source.choice([[], [1], [3], [2, 3], [2, 2, 2]])
    if dtype.startswith("float"):
        low, high = source.choice(
            [(-1.0, 1.0), (0.0, 200.0), (0.1, 0.3), ("-inf", "inf"), (5.0, "inf")]
        )
    else:
        low, high = source.choice([(0, 255), (3, 17)] if dtype == "uint8" else [(-9, 9), (2, 5)])
    return {"type": "Box", "dtype": dtype, "shape": shape, "low": low, "high": high}


def _raster(source: random.Random) -> Data:
    dtype, shape, high = source.choice(
        [
            ("uint8", [9, 8], 255),
            ("uint8", [12, 10, 3], 255),
            ("uint8", [9, 9, 1], 1),
            ("uint8", [8, 2, 5], 255),
            ("float32", [65, 64], 1.0),
            ("float32", [40, 36, 3], "inf"),
        ]
    )
    return {"type": "Box", "dtype": dtype, "shape": shape, "low": 0, "high": high}


def _discrete(source: random.Random) -> Data:
    return {"type": "Discrete", "n": source.randint(1, 6), "start": source.choice([0, 0, -2, 3])}


def _multi_discrete(source: random.Random) -> Data:
    nvec = [source.randint(1, 5) for _ in range(source.randint(1, 3))]
    return {"type": "MultiDiscrete", "nvec": nvec, "start": [source.choice([0, 4]) for _ in nvec]}


def _multi_binary(source: random.Random) -> Data:
    return {"type": "MultiBinary", "n": source.choice([1, 4, [2, 3]])}


def _action_box(source: random.Random) -> Data:
    bounds = [
        source.choice([(0.0, 1.0), (-1.0, 1.0), (-2.0, 5.0)]) for _ in range(source.randint(1, 4))
    ]
    low, high = map(list, zip(*bounds, strict=True))
    return {"type": "Box", "dtype": "float32", "shape": [len(low)], "low": low, "high": high}


def _control(source: random.Random, action: Data) -> Data | None:
    if action["type"] == "Box" and action["shape"] in ([2], [3], [4]):
        names = (
            ["steer", "acceleration"] if action["shape"] == [2] else ["throttle", "brake", "steer"]
        )
        names += ["reverse"] if action["shape"] == [4] else []
        source.shuffle(names)
        signed = ("steer", "acceleration")
        scale = {
            name: source.choice(["linear", "clip"])
            if name not in signed or low < 0 < high
            else "clip"
            for name, low, high in zip(names, action["low"], action["high"], strict=True)
        }
        return {"layout": names, "scale": scale}
    if action["type"] == "Discrete":
        return {"table": [_row(source) for _ in range(action["n"])]}
    if action["type"] == "MultiDiscrete":
        names = ["acceleration", "steer", "reverse"][: len(action["nvec"])]
        choose = {"reverse": lambda: source.random() < 0.5}
        return {
            "axes": [
                {name: [choose.get(name, lambda: source.uniform(-1, 1))() for _ in range(n)]}
                for name, n in zip(names, action["nvec"], strict=True)
            ]
        }
    return None


def _row(source: random.Random) -> Data:
    return {"throttle": source.random(), "steer": source.uniform(-1, 1), "hand_brake": True}
