"""Policies of any signature with random weights, and random signatures."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from converters.artifact import artifact, pickles
from converters.artifact.card import Architecture, Distribution, ModelCard
from converters.artifact.policy import network
from triton_backend.preprocessing import Preprocessing

Data = dict[str, Any]


def make(folder: Path, data: Data, *, pickled: bytes = pickles.NOTHING, **more: Any) -> Path:
    """Write the artifact of a policy with the signature `data` and random weights."""
    torch.manual_seed(sum(folder.name.encode()))
    card = ModelCard.model_validate(
        {
            "model_name": "toy",
            "version": folder.name,
            "model_type": "pytorch",
            "framework_version": "2.13.0",
            "architecture": Architecture(hidden=[16], activation="relu"),
            "artifact_hashes": {},
            **data,
            **more.pop("card", {}),
        }
    )
    policy = network(Preprocessing.of(card.signature).width, card)
    for one in policy.parameters():
        torch.nn.init.uniform_(one, -0.5, 0.5)
    model = artifact.state_dict_bytes(policy.state_dict())
    given = {"observations": None, "check": lambda _: None} | more
    return artifact.create(folder, card, model, pickled, **given)


def random_signature(seed: int) -> Data:
    """Return the card's form of a random signature: nested observations, and any action."""
    source = random.Random(seed)
    action = source.choice([_action_box, _discrete, _multi_discrete, _multi_binary])(source)
    data: Data = {"observation_space": _space(source, 3), "action_space": action}
    if action["type"] == "Box":
        std, squash = (
            source.choice(["none", "parameter", "network"]),
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
        return source.choice([_box, _box, _discrete, _multi_discrete, _multi_binary])(source)
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
