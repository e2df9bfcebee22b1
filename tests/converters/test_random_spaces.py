"""Policies of random nested spaces act as in PyTorch: exported, and served by Triton."""

from __future__ import annotations

import time
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium.spaces as gym
import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import np_to_triton_dtype

from carlarl.serving.cleanup import own_folder
from carlarl.serving.triton_server import TritonServer
from converters.artifact import artifact
from converters.artifact.artifact import Artifact
from converters.artifact.observations import Rows, corners, drawn, json_form
from converters.export import parity
from converters.export.export import export
from converters.repository import configs
from policy_spec.leaves import Layout, leaves
from policy_spec.noise import NoiseSource
from policy_spec.spaces import Box, Dict, Discrete, MultiBinary, Space, Tuple
from tests.converters.policies_of_spaces import make, random_signature
from tests.stack import free_ports

FEW, ALL, TOGETHER = 12, 500, 16
STARTS = [0, *(pytest.param(n, marks=pytest.mark.reliability) for n in range(FEW, ALL, TOGETHER))]


@pytest.mark.parametrize("start", STARTS)
def test_served_as_in_pytorch(tmp_path: Path, start: int) -> None:
    """Many in one server, over HTTP and gRPC: each one's ensemble and fused model."""
    stop = min(start + TOGETHER, ALL) if start else FEW
    folders = [make(tmp_path / f"v1.0.{i}", random_signature(i)) for i in range(start, stop)]
    target = tmp_path / "repository"
    export(folders, target)  # it compares ONNX Runtime and TorchScript with PyTorch, or raises
    models = [path.name for path in target.iterdir() if "torchscript" not in path.name]
    models.remove(configs.ALIAS)
    http, grpc, metrics = free_ports(3)
    with own_folder() as folder:
        server = TritonServer(folder, target, models, http=http, grpc=grpc, metrics=metrics)
        try:
            _wait_ready(server, f"http://127.0.0.1:{http}/v2/health/ready")
            for module, port in ((tritonclient.http, http), (tritonclient.grpc, grpc)):
                with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
                    for path in folders:
                        _compare(artifact.load(path), module, client)
        finally:
            server.stop()


def _wait_ready(server: TritonServer, url: str) -> None:
    deadline = time.monotonic() + 120
    while server.exit_code() is None and time.monotonic() < deadline:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError(server.log_tail())


def _compare(source: Artifact, module: ModuleType, client: Any) -> None:
    """Compare the answers for drawn observations, deterministic and not, with PyTorch's."""
    signature = source.card.signature
    space, version = signature.observation_space, source.card.version
    rows = tuple(
        np.concatenate(pair) for pair in zip(drawn(space, 20, 1000), corners(space), strict=True)
    )
    count = len(rows[0])
    features = expected_features(space, rows)
    seed, index = np.arange(count) * 7 + 3, np.arange(count)
    for deterministic in (True, False) if signature.noise != "none" else (True,):
        flags = np.full(count, deterministic)
        width = max(signature.noise_width, 1)
        noise = NoiseSource(signature.noise).draw(flags, seed, index, width)
        truth = parity.Truth.of(source.policy, features, noise)
        names = ["action", "policy_action"][: 1 + signature.has_policy_action]
        apart = {
            "deterministic": flags[:, None], "seed": seed[:, None], "row": index[:, None],
        }  # fmt: skip
        key = {"noise_key": np.stack([np.where(flags, -1, seed), index], axis=1)}
        told = {leaf.name: part for leaf, part in zip(leaves(space), rows, strict=True)}
        for model, tensors in (
            (f"carla_policy-{version}", {**_shaped(space, told), **apart}),
            (f"carla_policy_fused-{version}", {**_packed(space, told), **key}),
        ):
            answer = infer(module, client, model, tensors)
            outputs = tuple(answer.as_numpy(name) for name in names)
            error, good = truth.errors(outputs, index)
            assert good, (model, deterministic, error)
            assert [one.dtype for one in outputs[-1:]] == [_dtype(signature.action_space)]


def expected_features(space: Space, rows: Rows) -> np.ndarray:
    """Flatten observations as Gymnasium does."""
    made = _gymnasium(space)
    flat = [gym.flatten(made, _value(made, one)) for one in json_form(space, rows)]
    return np.array(flat).astype(np.float32)


def _gymnasium(space: Space) -> gym.Space[Any]:
    if isinstance(space, Dict):
        return gym.Dict(OrderedDict((key, _gymnasium(part)) for key, part in space.subspaces))
    if isinstance(space, Tuple):
        return gym.Tuple([_gymnasium(part) for part in space.subspaces])
    if isinstance(space, Box):
        low, high = (np.full(space.shape, bound, space.dtype) for bound in (space.low, space.high))
        return gym.Box(low, high, space.shape, np.dtype(space.dtype).type)
    if isinstance(space, Discrete):
        return gym.Discrete(space.n, start=space.start)
    if isinstance(space, MultiBinary):
        return gym.MultiBinary(space.shape)
    return gym.MultiDiscrete(np.array(space.nvec), start=np.array(space.start))


def _value(space: gym.Space[Any], value: Any) -> Any:
    if isinstance(space, gym.Dict):
        return OrderedDict((key, _value(part, value[key])) for key, part in space.items())
    if isinstance(space, gym.Tuple):
        return tuple(_value(part, one) for part, one in zip(space, value, strict=True))
    return np.int64(value) if isinstance(space, gym.Discrete) else np.array(value, space.dtype)


def _dtype(space: Space) -> np.dtype[Any]:
    return np.dtype(np.float32 if isinstance(space, Box) else space.dtype)  # type: ignore[union-attr]


def _shaped(space: Space, told: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = leaves(space)
    return {leaf.name: told[leaf.name].reshape(-1, *leaf.dims) for leaf in found}


def _packed(space: Space, told: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    layout = Layout.of(space)
    apart = {leaf.name: told[leaf.name].reshape(-1, *leaf.dims) for leaf in layout.apart}
    flat = [told[slot.leaf.name].reshape(len(told[slot.leaf.name]), -1) for slot in layout.packed]
    return apart | ({"observation": np.concatenate(flat, axis=1)} if flat else {})


def infer(module: ModuleType, client: Any, model: str, tensors: dict[str, np.ndarray]) -> Any:
    """Ask a model of Triton."""
    inputs = []
    for name, array in tensors.items():
        one = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        one.set_data_from_numpy(array)
        inputs.append(one)
    return client.infer(model, inputs)
