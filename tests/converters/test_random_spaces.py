"""Policies of random nested spaces act as in PyTorch: exported, and served by Triton."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import gymnasium.spaces as gym
import httpx
import msgspec
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import np_to_triton_dtype
from websockets.sync.client import connect

from carlarl.promotion.promote import Recorded, recorded
from carlarl.promotion.triton_control import TritonControl
from converters.artifact import artifact
from converters.artifact.artifact import Artifact
from converters.artifact.observations import Rows, corners, drawn, json_form
from converters.export.export import export
from converters.export.truth import Truth
from converters.repository import configs
from policy_spec.graph import feature_width
from policy_spec.leaves import Layout, leaves
from policy_spec.noise import NoiseSource
from policy_spec.signature import Signature
from policy_spec.spaces import Box, Dict, Discrete, MultiBinary, Space, Tuple
from policy_spec.validate import MAX_NUMBERS, unpack
from tests.converters.policies_of_spaces import make, random_signature
from tests.gateway.processes import gateway_process
from tests.gateway.wire.proxies import PROXIES, needs, proxy
from tests.triton import running_triton

FEW, ALL, TOGETHER = 8, 500, 16
STARTS = [0, *(pytest.param(n, marks=pytest.mark.reliability) for n in range(FEW, ALL, TOGETHER))]


@needs(*PROXIES)
@pytest.mark.parametrize("start", STARTS)
def test_served_as_in_pytorch(tmp_path: Path, start: int) -> None:
    """Many in one server, over HTTP and gRPC: each one's ensemble and fused model.

    And all of them through one gateway, over HTTP and streams, in JSON and msgpack: in turns
    directly, behind nginx, and behind HAProxy.
    """
    stop = min(start + TOGETHER, ALL) if start else FEW
    folders = [make(tmp_path / f"v1.0.{i}", random_signature(i)) for i in range(start, stop)]
    check_served(folders, tmp_path / "repository")


def check_served(folders: list[Path], target: Path) -> None:
    """Export policies, serve them, and compare all that is answered with PyTorch."""
    export(folders, target)  # it compares ONNX Runtime and TorchScript with PyTorch, or raises
    models = [path.name for path in target.iterdir() if "torchscript" not in path.name]
    models.remove(configs.ALIAS)
    with running_triton(target, models) as (http, grpc):
        for module, port in ((tritonclient.http, http), (tritonclient.grpc, grpc)):
            with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
                for path in folders:
                    _compare(artifact.load(path), module, client)
        triton = f"http://127.0.0.1:{http}"
        with TritonControl(triton, grpc_port=grpc) as control:
            for path in folders:
                _repeat_golden(recorded(target, path.name), control)
        with ExitStack() as stack:
            started = gateway_process(TRITON_URL=triton, MODEL_VERSION=folders[0].name)
            url = stack.enter_context(started)
            ways = [url, *(stack.enter_context(proxy(name, url)) for name in PROXIES)]
            for path, way in zip(folders, cycle(ways), strict=False):
                _compare_gateway(artifact.load(path), way)


def _repeat_golden(told: Recorded, control: TritonControl) -> None:
    """Ask for the recorded answers as a promotion does."""
    for model in (f"carla_policy-{told.version}", f"carla_policy_fused-{told.version}"):
        actions = control.act(model, told.observations)
        np.testing.assert_allclose(actions, told.actions, rtol=0, atol=told.tolerance)


def _compare(source: Artifact, module: ModuleType, client: Any) -> None:
    """Compare the answers for drawn observations, deterministic and not, with PyTorch's."""
    signature = source.card.signature
    space, version = signature.observation_space, source.card.version
    rows = tuple(
        np.concatenate(pair) for pair in zip(drawn(space, 20, 1000), corners(space), strict=True)
    )
    count = len(rows[0])
    features, rasters = expected_features(space, rows), rasters_of(space, rows)
    seed, index = np.arange(count) * 7 + 3, np.arange(count)
    for deterministic in (True, False) if signature.noise != "none" else (True,):
        flags = np.full(count, deterministic)
        width = max(signature.noise_width, 1)
        noise = NoiseSource(signature.noise).draw(flags, seed, index, width)
        truth = Truth.of(source.policy, features, noise, *rasters)
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


def _compare_gateway(source: Artifact, url: str) -> None:
    """Compare what the gateway answers with PyTorch, and a stream with that."""
    signature, version = source.card.signature, source.card.version
    space = signature.observation_space
    rows = drawn(space, 40, 2000)
    observations, index = json_form(space, rows), np.arange(40)
    asked: dict[str, Any] = {"version": version, "policyActions": True}
    for deterministic in (True, False) if signature.noise != "none" else (True,):
        flags, seeds = np.full(40, deterministic), np.full(40, 11)
        width = max(signature.noise_width, 1)
        noise = NoiseSource(signature.noise).draw(flags, seeds, index, width)
        features, rasters = expected_features(space, rows), rasters_of(space, rows)
        truth = Truth.of(source.policy, features, noise, *rasters)
        asked |= {"deterministic": deterministic, "seed": 11}
        in_bytes, in_lists = (_in_form(space, rows, form) for form in ("bytes", "lists"))
        packed = msgspec.msgpack.encode({"observations": in_bytes, **asked})
        form = {"Content-Type": "application/msgpack"}
        with httpx.Client(base_url=url) as client:
            json_answer = client.post("/predict", json={"observations": observations, **asked})
            packed_answer = client.post("/predict", content=packed, headers=form)
            if not any(leaf.space.size * 40 > MAX_NUMBERS // 2 for leaf in leaves(space)):
                plain_answer = client.post("/predict", json={"observations": in_lists, **asked})
                assert plain_answer.json()["actions"] == json_answer.json()["actions"]
        answers = [json_answer.json(), msgspec.msgpack.decode(packed_answer.content)]
        for answer in answers:
            assert "actions" in answer, (version, answer)
            outputs = tuple(np.array(one) for one in _outputs(signature, answer))
            error, good = truth.errors(outputs, index)
            assert good, (version, deterministic, error)
            assert answer["actions"] == answers[0]["actions"]
        with connect(f"ws{url.removeprefix('http')}/stream") as stream:
            frame = {"stepId": 1, "observation": observations[0], **asked}
            stream.send(json.dumps(frame))
            step = json.loads(stream.recv(timeout=10))
            stream.send(msgspec.msgpack.encode(frame | {"observation": in_bytes[0]}))
            assert step["action"] == answers[0]["actions"][0]
            assert step["policyAction"] == answers[0]["policyActions"][0]
            assert msgspec.msgpack.decode(stream.recv(timeout=10))["action"] == step["action"]


def _in_form(space: Space, rows: Rows, form: Literal["lists", "bytes"]) -> list[Any]:
    """Return observations with nested lists, or with bytes as msgpack has them, for base64."""
    names = [leaf.name for leaf in leaves(space)]
    each = (dict(zip(names, one, strict=True)) for one in zip(*rows, strict=True))
    return [unpack(space, {k: v.tobytes() for k, v in row.items()}, form) for row in each]


def _outputs(signature: Signature, answer: dict[str, Any]) -> Iterator[np.ndarray]:
    """Return the tensors of a model that made this answer."""
    dtype = _dtype(signature.action_space)
    own = np.array(answer["policyActions"], dtype).reshape(40, -1)
    if signature.control is None:
        assert answer["actions"] == answer["policyActions"]
    else:
        names = signature.control.names
        yield np.array([[one[name] for name in names] for one in answer["actions"]], np.float32)
    if signature.control is None or signature.has_policy_action:
        yield own


def expected_features(space: Space, rows: Rows) -> np.ndarray:
    """Flatten observations as Gymnasium does, and leave the rasters away."""
    made = _gymnasium(space)
    flat = [gym.flatten(made, _value(made, one)) for one in _in_form(space, rows, "lists")]
    kept = [np.full(feature_width(leaf.space), not leaf.raster) for leaf in leaves(space)]
    return np.array(flat).astype(np.float32)[:, np.concatenate(kept)]


def rasters_of(space: Space, rows: Rows) -> list[np.ndarray]:
    return [part for leaf, part in zip(leaves(space), rows, strict=True) if leaf.raster]


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
