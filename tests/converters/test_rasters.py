"""Policies that see: rasters go from the observation to the policy's graph as they are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from converters.artifact import artifact
from converters.artifact.card import ArtifactError
from converters.export import parity
from converters.export.export import GOLDEN_BYTES, export
from converters.export.truth import Truth
from converters.importers import interface
from converters.importers.torchscript import import_torchscript
from converters.repository import certificate, configs, repository
from policy_spec.graph import Input, graph_inputs
from policy_spec.signature import Signature
from tests.converters.policies_of_spaces import make
from tests.converters.test_random_spaces import check_served

Data = dict[str, Any]

SPEED = {"type": "Box", "dtype": "float32", "shape": [], "low": 0, "high": 50}
DRIVER: Data = {
    "action_space": {
        "type": "Box", "dtype": "float32", "shape": [3], "low": [0, 0, -1], "high": [1, 1, 1],
    },
    "control": {"layout": ["throttle", "brake", "steer"]},
    "distribution": {"std": "parameter"},
}  # fmt: skip
CHOICE: Data = {"action_space": {"type": "Discrete", "n": 5}}


def image(*shape: int, **more: Any) -> Data:
    return {"type": "Box", "dtype": "uint8", "shape": list(shape), "low": 0, "high": 255} | more


def both(**parts: Data) -> Data:
    return {"type": "Dict", "subspaces": parts}


CAMERA = DRIVER | {"observation_space": both(camera=image(96, 96, 3, unit="RGB"), speed=SPEED)}
FRAMES = CHOICE | {"observation_space": image(84, 84, 4)}
GRID = DRIVER | {
    "observation_space": both(
        noise=image(12, 9, dtype="float32", shape=[3, 40, 40], low="-inf", high="inf"),
        map=image(20, 20, high=1),
    )
}


def test_what_a_graph_takes() -> None:
    noise = Input("noise", "float32", (3,))
    assert graph_inputs(Signature.from_card(CAMERA)) == (
        Input("features", "float32", (1,)), noise, Input("camera", "uint8", (96, 96, 3)),
    )  # fmt: skip
    assert graph_inputs(Signature.from_card(FRAMES)) == (
        Input("noise", "float32", (5,)), Input("observation", "uint8", (84, 84, 4)),
    )  # fmt: skip
    assert graph_inputs(Signature.from_card(GRID)) == (
        noise, Input("%6Eoise", "float32", (3, 40, 40)), Input("map", "uint8", (20, 20)),
    )  # fmt: skip
    small = both(tiny=image(8, 8), line=image(5000), long=SPEED | {"shape": [64, 64]})
    wide = Signature.from_card(CAMERA | {"observation_space": small})
    assert graph_inputs(wide)[0].shape == (64 + 5000 + 4096,)
    state = {"state": {"h": {"dtype": "float32", "shape": [2, 64]}}}
    *_, start, memory = graph_inputs(Signature.from_card(FRAMES | state))
    assert (start, memory) == (
        Input("episode_start", "bool", (1,)), Input("state.h", "float32", (2, 64)),
    )  # fmt: skip


@pytest.mark.reliability
def test_served_as_in_pytorch(tmp_path: Path) -> None:
    """An image beside a number, a stack of frames alone, and rasters alone with bounds."""
    spaces = {"v1.0.0": CAMERA, "v1.0.1": FRAMES, "v1.0.2": GRID}
    target = tmp_path / "repository"
    check_served([make(tmp_path / version, data) for version, data in spaces.items()], target)
    for version in spaces:
        for line in certificate.lines(version, certificate.read(target, version)):
            assert line.repeated == "bit-exact", "alone or in a batch: measured, and told"
    config = repository.read_config(target, "carla_policy-v1.0.0")
    golden = config.parameters["golden"].string_value
    assert len(golden) < 2 * GOLDEN_BYTES
    assert len(json.loads(golden)["observations"]) == 3
    first, second = config.ensemble_scheduling.step
    assert (sorted(first.input_map), sorted(second.input_map)) == (
        ["deterministic", "nonce", "row", "seed", "speed"],
        ["camera", "features", "noise", "nonce"],
    )
    policy = repository.read_config(target, "policy_onnx-v1.0.1")
    taken = [(one.name, one.data_type, list(one.dims)) for one in policy.input]
    assert taken[:2] == [
        ("noise", configs.pb.TYPE_FP32, [5]), ("observation", configs.pb.TYPE_UINT8, [84, 84, 4]),
    ]  # fmt: skip
    program = torch.jit.load(str(target / "policy_torchscript-v1.0.1" / "1000001" / "model.pt"))
    assert re.findall(r"_convolution\(.*(True|False)\)", program.code) == ["False"], "no TF32"
    graph = onnx.load(str(target / "policy_onnx-v1.0.1" / "1000001" / "model.onnx"))
    assert graph.opset_import[0].version == 18


def test_the_native_flavour(tmp_path: Path) -> None:
    """Rasters alone need no preprocessing model; the caller passes the noise."""
    folders = [make(tmp_path / "v1.0.0", CAMERA), make(tmp_path / "v1.0.1", FRAMES)]
    export(folders, target := tmp_path / "native", flavour="native")
    assert not (target / "preprocess-v1.0.1").exists()
    for version, inputs, steps in (
        ("v1.0.0", ["camera", "speed", "noise"], 2),
        ("v1.0.1", ["observation", "noise"], 1),
    ):
        config = repository.read_config(target, f"carla_policy-{version}")
        assert [one.name for one in config.input] == inputs
        assert len(config.ensemble_scheduling.step) == steps


def test_large_rows_come_in_smaller_batches(tmp_path: Path) -> None:
    space = image(512, 640, 3)
    signature = Signature.from_card(CHOICE | {"observation_space": space})
    config = configs.parse(configs.fused("v1.0.0", signature))
    assert config.max_batch_size == (16 << 20) // (512 * 640 * 3) == 17
    assert [one.batch_size for one in config.model_warmup] == [1, 17]
    huge = Signature.from_card(CHOICE | {"observation_space": image(4096, 4096)})
    assert configs.parse(configs.fused("v1.0.0", huge)).max_batch_size == 1
    source = artifact.load(make(tmp_path / "v1.0.0", CHOICE | {"observation_space": space}))
    assert parity.batch_sizes(source) == (1, 2, 7, 17)


def test_many_recorded_images_are_compared_on_some(tmp_path: Path) -> None:
    seen = np.random.default_rng(0).integers(0, 256, (400, 84, 84, 4), np.uint8)
    np.save(tmp_path / "seen.npy", seen)
    np.savez(tmp_path / "seen.npz", observation=seen)
    folder = make(tmp_path / "v1.0.0", FRAMES, observations=tmp_path / "seen.npz")
    (rows,) = parity.observations(artifact.load(folder))
    assert len(rows) == parity.MOST_BYTES // (84 * 84 * 4)
    assert rows[0].tobytes() == seen[0].tobytes()
    assert rows[-1].tobytes() == seen[-1].tobytes()


def test_a_perceptron_takes_no_raster(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="camera is a raster, and a pytorch model"):
        make(tmp_path / "v1.0.0", CAMERA, card={"model_type": "pytorch"})


class Eye(torch.nn.Module):
    """Brakes for what is bright, throttles for what is dark; `features` is the speed."""

    def forward(self, features: torch.Tensor, camera: torch.Tensor) -> torch.Tensor:
        light = camera.permute(0, 3, 1, 2).float().mean(dim=(1, 2, 3))[:, None] / 255
        return torch.cat([1 - light, light, features / 50], dim=1)


def test_import_torchscript(tmp_path: Path) -> None:
    given = torch.zeros(2, 1), torch.zeros(2, 96, 96, 3, dtype=torch.uint8)
    program = torch.jit.trace(Eye().eval(), given)
    torch.jit.save(program, tmp_path / "eye.pt")
    spec = {key: CAMERA[key] for key in ("observation_space", "action_space", "control")}
    folder = import_torchscript(tmp_path / "eye.pt", "v1.0.0", tmp_path, spec=spec)
    source = artifact.load(folder)
    assert interface.described(source.card.signature)[:2] == [
        ("observation", "camera", "image, 96 × 96 × 3 uint8", "0 to 255", "RGB"),
        ("observation", "speed", "Box, one float32", "0 to 50", ""),
    ]
    dark = np.zeros((1, 96, 96, 3), np.uint8), np.full((1,), 25, np.float32)
    action = parity.actions(source, *parity.inputs(source, dark))
    np.testing.assert_array_equal(action, [[1, 0, 0.5]])
    truth = Truth.of(source.policy, *parity.probes(source))
    assert truth.outputs[0].dtype == np.float64, "whatever the program casts its image to"
    spec["observation_space"] = both(camera=image(96, 96, 3), speed=SPEED, lane=SPEED)
    with pytest.raises(ArtifactError) as told:
        import_torchscript(tmp_path / "eye.pt", "v1.0.1", tmp_path, spec=spec)
    assert "its actions differ" not in str(told.value)


def test_a_program_of_another_image(tmp_path: Path) -> None:
    layer = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(300, 5)).eval()
    torch.jit.save(torch.jit.trace(layer, torch.zeros(2, 10, 10, 3)), tmp_path / "policy.pt")
    spec = CHOICE | {"observation_space": image(12, 12, 3)}
    with pytest.raises(ArtifactError, match="does not run on two rows of 12 × 12 × 3 uint8: "):
        import_torchscript(tmp_path / "policy.pt", "v1.0.0", tmp_path, spec=spec)
