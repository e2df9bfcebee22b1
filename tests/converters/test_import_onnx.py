"""An ONNX model becomes an artifact, and what is served answers as the model does."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from carlarl import cli
from converters.artifact import artifact
from converters.artifact.artifact import Artifact
from converters.artifact.card import ArtifactError
from converters.artifact.onnx_network import Network
from converters.export import parity
from converters.export.export import export
from converters.export.onnx_file import ExportError
from converters.export.truth import Truth
from converters.importers import onnx_model
from converters.importers.import_onnx import import_onnx
from converters.importers.onnx_inputs import Route
from policy_spec.leaves import leaves
from policy_spec.noise import NoiseSource
from tests.converters.policies_of_spaces import make
from tests.converters.test_random_spaces import check_served
from triton_backend.engine import BuildRecord, digest

ROWS = 1000
FIELDS = ["speed", "steering", "sensors:5"]
PEDALS = ("throttle", "brake", "steer")
GAUSSIAN: Any = {"fields": FIELDS, "layout": PEDALS, "distribution": "gaussian"}
LOW, HIGH = np.float32([0, 0, -1]), np.float32([1, 1, 1])
IMAGE = {"type": "Box", "dtype": "uint8", "shape": [24, 20, 3], "low": 0, "high": 255}
SPEED = {"type": "Box", "dtype": "float32", "shape": [], "low": 0, "high": 50}
CAMERA = {
    "observation_space": {"type": "Dict", "subspaces": {"camera": IMAGE, "speed": SPEED}},
    "action_space": {"type": "Discrete", "n": 4, "start": 2},
}


class Net(nn.Module):
    """A perceptron with so many outputs; `make` makes of them what the policy returns."""

    def __init__(self, make: Callable[..., Any], outputs: int = 6) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layers = nn.Sequential(nn.Linear(7, 32), nn.ELU(), nn.Linear(32, outputs))
        self.value, self.make = nn.Linear(7, 1), make

    def forward(self, observation: Tensor) -> Any:
        return self.make(self.layers(observation), self.value(observation))


def gaussian(made: Tensor, _: Tensor) -> Any:
    return made[:, :3], made[:, 3:].tanh().exp()


class Sees(nn.Module):
    """Takes float images with channels first, and the speed after them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.eye = nn.Sequential(nn.Conv2d(3, 4, 4, 2), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(4 * 11 * 9 + 1, 4)

    def forward(self, image: Tensor, speed: Tensor) -> Any:
        made: Tensor = self.head(torch.cat([self.eye(image / 255), speed / 50], 1))
        return made


def written(
    path: Path, module: nn.Module, *given: Tensor, names: Sequence[str] = (), **more: Any
) -> Path:
    """Export a module by the legacy exporter, with a batch of any size."""
    given = given or (torch.zeros(2, 7),)
    names = list(names) or [f"x{index}" for index in range(len(given))]
    axes = {name: {0: "batch"} for name in names}
    options = {"input_names": names, "dynamic_axes": axes, "opset_version": 17} | more
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), given, str(path), dynamo=False, **options)
    return path


def exported(folder: Path, **more: Any) -> Path:
    """What torch's newer exporter writes: opset 20, and the weights in a file beside it."""
    path = folder / "dynamo.onnx"
    batch = {0: torch.export.Dim("batch")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses what torch itself calls deprecated
        torch.onnx.export(
            Net(gaussian).eval(), (torch.zeros(2, 7),), str(path), dynamo=True, verbose=False,
            dynamic_shapes={"observation": batch}, **more,
        )  # fmt: skip
    return path


def by_hand(path: Path, *, opset: int = 18, **change: Any) -> Path:
    """A model for two leaves by their names: a number, and a gear as an integer."""
    table = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "gear"], ["row"]),
        helper.make_node("Mul", ["row", "speed"], ["scaled"]),
        helper.make_node("Tanh", ["scaled"], ["logits"]),
        *change.get("nodes", []),
    ]
    inputs = [
        helper.make_tensor_value_info("speed", TensorProto.FLOAT, ["n", 1]),
        helper.make_tensor_value_info("gear", TensorProto.INT64, ["n"]),
        *change.get("inputs", []),
    ]
    outputs = change.get("outputs") or [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])
    ]
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(table, "table")]
    )
    domains = [helper.make_opsetid(name, 1) for name in change.get("domains", [])]
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset), *domains], ir_version=8
    )
    onnx.save(model, str(path))
    return path


GEARS: dict[str, Any] = {
    "observation_space": {
        "type": "Dict",
        "subspaces": {"gear": {"type": "Discrete", "n": 3}, "speed": SPEED},
    },
    "action_space": {"type": "Discrete", "n": 4},
}


def served(source: Path, target: Path, apart: float = 0.0) -> Callable[..., list[Any]]:
    """Export an artifact; return what runs its model as the repository holds it.

    `apart` is how far a row alone may be from the same in a batch; the certificate says it, too.
    """
    export([source], target)
    (path,) = target.glob("policy_onnx-*/*/model.onnx")
    session = onnxruntime.InferenceSession(str(path))

    def run(**given: Any) -> list[Any]:
        made: list[Any] = session.run(None, given)
        for row in (0, 7, ROWS - 1):
            alone = session.run(None, {name: one[row : row + 1] for name, one in given.items()})
            for whole, one in zip(made, alone, strict=True):
                np.testing.assert_allclose(whole[row], one[0], rtol=0, atol=apart)
        return made

    return run


def user(path: Path, *given: Any) -> list[Any]:
    """What the user's own file gives."""
    session = onnxruntime.InferenceSession(str(path))
    names = [one.name for one in session.get_inputs()]
    made: list[Any] = session.run(None, dict(zip(names, given, strict=True)))
    return made


def rows(width: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(ROWS, width)).astype(np.float32)


def noise(kind: str, width: int) -> np.ndarray:
    index = np.arange(ROWS)
    drawn: np.ndarray = NoiseSource(kind).draw(np.zeros(ROWS, bool), index, index, width)
    return drawn


def exact(source: Artifact) -> bool:
    return Truth.of(source.policy, *parity.probes(source)).scores.dtype == np.float64


@pytest.mark.parametrize("how", ["legacy 11", "legacy 17", "dynamo 18", "dynamo 24"])
def test_a_gaussian(tmp_path: Path, how: str) -> None:
    opset = int(how.split()[1])
    if how.startswith("legacy"):
        path = written(tmp_path / "policy.onnx", Net(gaussian), opset_version=opset)
    else:
        path = exported(tmp_path, opset_version=opset)
        assert path.with_name("dynamo.onnx.data").exists()
    folder = import_onnx(path, "v1.0.0", tmp_path / "a", **GAUSSIAN)
    assert (folder / "model.onnx").stat().st_size > 4 * (7 * 32 + 32 * 6)
    if how.startswith("legacy"):
        assert (folder / "model.onnx").read_bytes() == path.read_bytes(), "the user's own file"
    source = artifact.load(folder)
    assert source.card.model_type == "onnx"
    assert source.card.distribution.std == "parameter"
    assert exact(source)
    run, drawn = served(folder, tmp_path / "repository"), noise("normal", 3)
    mean, std = user(path, rows(7))
    (action,) = run(features=rows(7), noise=drawn)
    assert action.tobytes() == np.clip(mean + std * drawn, LOW, HIGH).tobytes()


def test_a_second_output_that_is_none(tmp_path: Path) -> None:
    """Stable-Baselines3's own example gives three; what only the others need is gone."""

    def three(made: Tensor, value: Tensor) -> Any:
        return made[:, :3], value, torch.randn_like(value)

    path, notes = written(tmp_path / "policy.onnx", Net(three)), []
    folder = import_onnx(
        path, "v1.0.0", tmp_path / "a", fields=FIELDS, layout=PEDALS, squash="tanh",
        second_output="ignore", tell=notes.append,
    )  # fmt: skip
    assert len([one for one in notes if "left away of its outputs" in one]) == 1
    (action,) = served(folder, tmp_path / "repository")(features=rows(7), noise=rows(1))
    mean = user(path, rows(7))[0]
    squashed = LOW + np.float32(0.5) * (np.tanh(mean) + np.float32(1)) * (HIGH - LOW)
    np.testing.assert_allclose(action, squashed, rtol=0, atol=1e-6)


def test_a_beta(tmp_path: Path) -> None:
    def beta(made: Tensor, _: Tensor) -> Any:
        return functional.softplus(made[:, :3]) + 1, functional.softplus(made[:, 3:]) + 1

    path = written(tmp_path / "policy.onnx", Net(beta))
    folder = import_onnx(
        path, "v1.0.0", tmp_path / "a", fields=FIELDS, layout=PEDALS, distribution="beta"
    )
    run = served(folder, tmp_path / "repository", apart=1e-6)  # Softplus is another in a batch
    (action,) = run(features=rows(7), noise=rows(1))
    alpha, beta_ = user(path, rows(7))
    mode = LOW + (alpha - 1) / (alpha + beta_ - 2) * (HIGH - LOW)
    np.testing.assert_allclose(action, mode, rtol=0, atol=1e-6)


def test_two_inputs_by_their_names(tmp_path: Path) -> None:
    path = by_hand(tmp_path / "policy.onnx")
    folder = import_onnx(path, "v1.0.0", tmp_path / "a", spec=GEARS)
    assert exact(artifact.load(folder))
    gear, speed = np.arange(ROWS) % 3, np.abs(rows(1))
    features = np.concatenate([np.eye(3, dtype=np.float32)[gear], speed], axis=1)
    drawn = noise("gumbel", 4)
    (action,) = served(folder, tmp_path / "repository")(features=features, noise=drawn)
    (logits,) = user(path, speed, gear)
    assert action.tobytes() == (logits + drawn).argmax(axis=1)[:, None].tobytes()


class Adds(nn.Module):
    def forward(self, state: Tensor, goal: Tensor) -> Any:
        return state + 2 * goal


def test_a_part_of_the_observation_named_state(tmp_path: Path) -> None:
    """It is no memory."""
    part = {"type": "Box", "dtype": "float32", "shape": [2], "low": -1, "high": 1}
    spec = {
        "observation_space": {"type": "Dict", "subspaces": {"state": part, "goal": part}},
        "action_space": part,
    }
    names, given = ("state", "goal"), (torch.zeros(2, 2), torch.zeros(2, 2))
    path = written(tmp_path / "policy.onnx", Adds(), *given, names=names)
    source = artifact.load(import_onnx(path, "v1.0.0", tmp_path / "a", spec=spec))
    made = source.policy(torch.tensor([[0.1, 0.2, 0.05, -0.05]]), torch.zeros(1, 1))
    torch.testing.assert_close(made, torch.tensor([[0.2, 0.1]]))


def eye(*sizes: int) -> dict[str, Any]:
    return IMAGE | {"shape": list(sizes)}


def eyes(**parts: Any) -> dict[str, Any]:
    action = {"type": "Box", "dtype": "float32", "shape": [2], "low": -999, "high": 999}
    return {
        "observation_space": {"type": "Dict", "subspaces": parts},
        "action_space": action,
    }


def watching(
    path: Path, inputs: dict[str, tuple[int, ...]], more: str = "", state: bool = False
) -> Path:
    """y: of the images in alphabetical order the mean; `more` is a vector of two that is added."""
    nodes = []
    for key in inputs:
        nodes += [
            helper.make_node("Cast", [key], [f"{key}/f"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", [f"{key}/f"], [f"{key}/m"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Reshape", [f"{key}/m", "column"], [f"{key}/r"]),
        ]
    order = [f"{key}/r" for key in sorted(inputs, key=str.lower)]
    nodes.append(helper.make_node("Concat", order, ["both"], axis=1))
    nodes.append(helper.make_node("Add", ["both", more or "nothing"], ["y"]))
    given = [
        helper.make_tensor_value_info(key, TensorProto.UINT8, ["n", *sizes])
        for key, sizes in inputs.items()
    ]
    made = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])]
    if more:
        given.append(helper.make_tensor_value_info(more, TensorProto.FLOAT, ["n", 2]))
    if state:
        nodes.append(helper.make_node("Neg", [more], [f"next_{more}"]))
        made.append(helper.make_tensor_value_info(f"next_{more}", TensorProto.FLOAT, ["n", 2]))
    held = [
        numpy_helper.from_array(np.array([-1, 1]), "column"),
        numpy_helper.from_array(np.zeros(2, np.float32), "nothing"),
    ]
    graph = helper.make_graph(nodes, "g", given, made, held)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return path


_SMALL, _FLAT = (8, 9, 3), (8, 9, 1)
_TWO = eyes(front=eye(*_SMALL), rear=eye(*_SMALL))
_PAIR = {"type": "Box", "dtype": "float32", "shape": [2], "low": -9, "high": 9}
SWAPPED: dict[str, tuple[dict[str, tuple[int, ...]], str, dict[str, Any]]] = {
    "by name": ({"rear": _SMALL, "front": _SMALL}, "", _TWO),
    "other case": ({"Rear": _SMALL, "Front": _SMALL}, "", _TWO),
    "one named": ({"z_cam": _SMALL, "front": _SMALL}, "", _TWO),
    "last key": (
        {"rear": _SMALL, "front": _SMALL}, "",
        eyes(camera={"type": "Dict", "subspaces": {"front": eye(*_SMALL), "rear": eye(*_SMALL)}}),
    ),
    "other shapes": (
        {"rear": _FLAT, "front": _SMALL}, "", eyes(front=eye(*_SMALL), rear=eye(*_FLAT)),
    ),
    "vector": (
        {"rear": _SMALL, "front": _SMALL}, "vec",
        eyes(front=eye(*_SMALL), rear=eye(*_SMALL), speed=_PAIR),
    ),
    "state": (
        {"rear": _SMALL, "front": _SMALL}, "state",
        eyes(front=eye(*_SMALL), rear=eye(*_SMALL), speed=_PAIR),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SWAPPED)
def test_inputs_in_another_order(name: str, tmp_path: Path) -> None:
    inputs, more, spec = SWAPPED[name]
    path = watching(tmp_path / "policy.onnx", inputs, more)
    source = artifact.load(import_onnx(path, "v1.0.0", tmp_path / "a", spec=spec))
    rasters = [leaf for leaf in leaves(source.card.signature.observation_space) if leaf.raster]
    given = {
        leaf.path[-1]: torch.full((1, *leaf.space.shape), 10, dtype=torch.uint8) for leaf in rasters
    }
    given["rear"] = given["rear"] + 190
    vector = torch.tensor([[1.0, 2.0]]) if more else torch.zeros(1, 0)
    made = source.policy(vector, torch.zeros(1, 1), *given.values())
    expected = torch.tensor([[11.0, 202.0]] if more else [[10.0, 200.0]])
    torch.testing.assert_close(made, expected)


def test_the_comparison_sees_inputs_in_the_wrong_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is called by position, as if its inputs were the observation's parts."""
    path = watching(tmp_path / "policy.onnx", {"rear": _SMALL, "front": _SMALL})
    monkeypatch.setattr(
        onnx_model, "routes",
        lambda *_: [Route(index, torch.uint8, plain=True) for index in range(2)],
    )  # fmt: skip
    with pytest.raises(ArtifactError, match="its actions differ from the model's own"):
        import_onnx(path, "v1.0.0", tmp_path / "a", spec=_TWO)


def test_a_sparse_constant_in_another_file_is_not_opened() -> None:
    values, indices = (numpy_helper.from_array(np.ones(1, dtype)) for dtype in ("f4", "i8"))
    values.name, values.data_location = "values", TensorProto.EXTERNAL
    values.external_data.add(key="location", value="/etc/passwd")
    sparse = helper.make_sparse_tensor(values, indices, [3])
    node = helper.make_node("Constant", [], ["made"], sparse_value=sparse)
    made = helper.make_tensor_value_info("made", TensorProto.FLOAT, [3])
    model = helper.make_model(helper.make_graph([node], "g", [], [made]))
    with pytest.raises(ValueError, match="its data is in another file"):
        Network(model.SerializeToString())


def image_policy(folder: Path) -> Path:
    given = torch.zeros(2, 3, 24, 20), torch.zeros(2, 1)
    return written(folder / "policy.onnx", Sees(), *given)


def test_an_image_with_channels_first(tmp_path: Path) -> None:
    path, notes = image_policy(tmp_path), []
    folder = import_onnx(path, "v1.0.0", tmp_path / "a", spec=CAMERA, tell=notes.append)
    assert "as they are; --scale-images divides them by 255; x0 gets the channels of" in notes[0]
    assert exact(artifact.load(folder))
    seen = np.random.default_rng(0).integers(0, 256, (ROWS, 24, 20, 3), np.uint8)
    drawn, speed = noise("gumbel", 4), np.abs(rows(1))
    run = served(folder, tmp_path / "repository")
    (action,) = run(features=speed, noise=drawn, camera=seen)
    (logits,) = user(path, seen.transpose(0, 3, 1, 2).astype(np.float32), speed)
    assert action.tobytes() == ((logits + drawn).argmax(axis=1)[:, None] + 2).tobytes()


def test_a_scaled_image(tmp_path: Path) -> None:
    folder = import_onnx(
        path := image_policy(tmp_path), "v1.0.0", tmp_path / "a", spec=CAMERA, scale_images=True
    )
    seen = np.random.default_rng(0).integers(0, 256, (ROWS, 24, 20, 3), np.uint8)
    drawn, speed = noise("gumbel", 4), np.abs(rows(1))
    (action,) = served(folder, tmp_path / "repository")(features=speed, noise=drawn, camera=seen)
    scaled = seen.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    (logits,) = user(path, scaled, speed)
    assert action.tobytes() == ((logits + drawn).argmax(axis=1)[:, None] + 2).tobytes()


def test_a_batch_of_one_becomes_dynamic(tmp_path: Path) -> None:
    path = written(tmp_path / "p.onnx", Net(gaussian), torch.zeros(1, 7), dynamic_axes={})
    folder = import_onnx(path, "v1.0.0", tmp_path / "a", **GAUSSIAN)
    (action,) = served(folder, tmp_path / "repository")(features=rows(7), noise=rows(3) * 0)
    alone = [user(path, row[None])[0] for row in rows(7)]
    assert action.tobytes() == np.clip(np.concatenate(alone), LOW, HIGH).tobytes()


def test_a_graph_in_a_node(tmp_path: Path) -> None:
    """The names inside of an If are the model's own, too."""
    branch = [
        helper.make_graph(
            [helper.make_node(kind, ["logits"], [f"{kind}/out"])], kind, [],
            [helper.make_tensor_value_info(f"{kind}/out", TensorProto.FLOAT, ["n", 4])],
        )
        for kind in ("Relu", "Neg")
    ]  # fmt: skip
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    nodes = [
        helper.make_node("Constant", [], ["condition"], value=true),
        helper.make_node(
            "If", ["condition"], ["noise"], then_branch=branch[0], else_branch=branch[1]
        ),
    ]
    outputs = [helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["n", 4])]
    path = by_hand(tmp_path / "policy.onnx", nodes=nodes, outputs=outputs)
    served(import_onnx(path, "v1.0.0", tmp_path / "a", spec=GEARS), tmp_path / "repository")


def test_a_graph_in_a_node_takes_constants_of_outside(tmp_path: Path) -> None:
    def branch(name: str, *nodes: Any, **held: Any) -> Any:
        made = helper.make_tensor_value_info(f"{name}/out", TensorProto.FLOAT, None)
        constants = [numpy_helper.from_array(value, key) for key, value in held.items()]
        last = helper.make_node("Mul", ["logits", name], [f"{name}/out"])
        return helper.make_graph([*nodes, last], name, [], [made], constants)

    half = branch("half", half=np.float32([0.5]))
    inner = helper.make_node(
        "If", ["yes"], ["middle"], then_branch=half, else_branch=branch("twice")
    )
    twice = helper.make_tensor_value_info("twice/out", TensorProto.FLOAT, None)
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node(
            "If", ["yes"], ["other"], else_branch=branch("table"),
            then_branch=helper.make_graph(
                [inner, helper.make_node("Mul", ["middle", "twice"], ["twice/out"])], "deep", [],
                [twice], [numpy_helper.from_array(np.float32([2]), "twice")],
            ),
        ),
    ]  # fmt: skip
    outputs = [helper.make_tensor_value_info("other", TensorProto.FLOAT, ["n", 4])]
    path = by_hand(tmp_path / "policy.onnx", nodes=nodes, outputs=outputs)
    run = served(import_onnx(path, "v1.0.0", tmp_path / "a", spec=GEARS), tmp_path / "repository")
    gear, speed = np.arange(ROWS) % 3, np.abs(rows(1))
    features = np.concatenate([np.eye(3, dtype=np.float32)[gear], speed], axis=1)
    drawn = noise("gumbel", 4)
    (action,) = run(features=features, noise=drawn)
    (logits,) = user(path, speed, gear)
    assert action.tobytes() == (logits + drawn).argmax(axis=1)[:, None].tobytes()


def test_recorded_observations_of_all_kinds(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "seen.npz", gear=np.arange(9) % 3, speed=np.arange(9, dtype=np.float64)[:, None]
    )
    folder = import_onnx(
        by_hand(tmp_path / "policy.onnx"), "v1.0.0", tmp_path / "a", spec=GEARS,
        observations=tmp_path / "seen.npz",
    )  # fmt: skip
    gear, speed = artifact.load(folder).observations
    assert (gear.dtype, speed.dtype, speed.shape) == (np.int64, np.float32, (9,))
    images = np.random.default_rng(0).integers(0, 256, (5, 24, 20, 3), np.uint8)
    np.savez(tmp_path / "seen.npz", camera=images, speed=np.arange(5))
    folder = import_onnx(
        image_policy(tmp_path), "v1.0.1", tmp_path / "a", spec=CAMERA,
        observations=tmp_path / "seen.npz",
    )  # fmt: skip
    assert artifact.load(folder).observations[0].tobytes() == images.tobytes()


def test_recorded_observations_by_the_keys_of_a_space(tmp_path: Path) -> None:
    """The keys are the caller's, also where a tensor has another name."""
    parts: dict[str, Any] = {
        "noise": {"type": "MultiBinary", "n": 3},
        "eyes": {"type": "Tuple", "subspaces": [IMAGE, {"type": "MultiDiscrete", "nvec": [2, 3]}]},
        "at home": SPEED,
    }
    data = GEARS | {"observation_space": {"type": "Dict", "subspaces": parts}}
    seen = {
        "noise": np.eye(3, dtype=bool),
        "eyes.0": np.random.default_rng(0).integers(0, 256, (3, 24, 20, 3), np.uint8),
        "eyes.1": np.int32([[0, 0], [1, 1], [1, 2]]),
        "at home": np.arange(3.0),
    }
    np.savez(tmp_path / "seen.npz", **seen)
    folder = make(tmp_path / "v1.0.0", data, observations=tmp_path / "seen.npz")
    read = artifact.load(folder).observations
    assert [one.dtype for one in read] == [np.int8, np.uint8, np.int64, np.float32]
    for one, given in zip(read, seen.values(), strict=True):
        np.testing.assert_array_equal(one, given)
    np.savez(tmp_path / "seen.npz", **{"%6Eoise": seen["noise"]}, **seen)
    with pytest.raises(ArtifactError, match="must hold the arrays noise, eyes.0, eyes.1, at home"):
        make(tmp_path / "v1.0.1", data, observations=tmp_path / "seen.npz")


def test_a_tensorrt_engine_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    path = exported(tmp_path, opset_version=18)
    folder = import_onnx(path, "v1.0.0", tmp_path / "a", **GAUSSIAN)
    export([folder], target := tmp_path / "repository", ["onnx", "tensorrt"], capabilities=("8.9",))
    version = target / "policy_tensorrt-v1.0.0" / "1000000"
    held = (target / "policy_onnx-v1.0.0" / "1000000" / "model.onnx").read_bytes()
    assert BuildRecord.load(version / "builder.json").source == digest(held)


def test_in_the_real_triton(tmp_path: Path) -> None:
    """Ensembles and fused models over HTTP and gRPC, and the gateway."""
    target = tmp_path / "a"
    plain = written(tmp_path / "gaussian.onnx", Net(gaussian))
    folders = [
        import_onnx(plain, "v1.0.0", target, **GAUSSIAN),
        import_onnx(image_policy(tmp_path), "v1.0.1", target, spec=CAMERA),
        import_onnx(by_hand(tmp_path / "hand.onnx"), "v1.0.2", target, spec=GEARS),
    ]
    check_served(folders, tmp_path / "repository")


def test_no_torchscript_of_it(tmp_path: Path) -> None:
    folder = import_onnx(by_hand(tmp_path / "p.onnx"), "v1.0.0", tmp_path / "a", spec=GEARS)
    with pytest.raises(ExportError, match="export it with --version v1.0.0 --formats onnx$"):
        export([folder], tmp_path / "repository", ["onnx", "torchscript"])


def _output(kind: int, *shape: Any) -> Any:
    return helper.make_tensor_value_info("other", kind, list(shape))


def _hand(*nodes: Any, **change: Any) -> Callable[[Path], Path]:
    return lambda folder: by_hand(folder / "p.onnx", nodes=list(nodes), **change)


def by_hand_in(folder: Path) -> Path:
    return by_hand(folder / "p.onnx")


def _net(make: Callable[..., Any], *given: Tensor, **more: Any) -> Callable[[Path], Path]:
    return lambda folder: written(folder / "p.onnx", Net(make), *given, **more)


def _huge(folder: Path) -> Path:
    (folder / "p.onnx").touch()
    os.truncate(folder / "p.onnx", (1 << 31) + 1)  # takes no room
    return folder / "p.onnx"


def _data_of(size: int, **told: Any) -> Callable[[Path], Path]:
    """A file of data that takes no room."""

    def write(folder: Path) -> Path:
        path = by_hand(folder / "p.onnx")
        model = onnx.load(str(path))
        (table,) = model.graph.initializer
        table.ClearField("raw_data")
        table.data_location = TensorProto.EXTERNAL
        for key, value in ({"location": "sparse"} | told).items():
            table.external_data.add(key=key, value=str(value))
        path.write_bytes(model.SerializeToString())
        (folder / "sparse").touch()
        os.truncate(folder / "sparse", size)
        return path

    return write


def _loop(folder: Path) -> Path:
    """It would run for thousands of years."""
    kinds = {"i": TensorProto.INT64, "go": TensorProto.BOOL, "x": TensorProto.FLOAT}
    inputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
    made = [
        helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
        helper.make_tensor_value_info("same", TensorProto.FLOAT, None),
    ]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Identity", ["x"], ["same"]),
        ],
        "body", inputs, made,
    )  # fmt: skip
    steps = numpy_helper.from_array(np.array(1 << 62))
    return by_hand(
        folder / "p.onnx",
        nodes=[
            helper.make_node("Constant", [], ["steps"], value=steps),
            helper.make_node("Loop", ["steps", "", "logits"], ["other"], body=body),
        ],
        outputs=[_output(TensorProto.FLOAT, "n", 4)],
    )


def _drops(training: bool) -> Callable[[Path], Path]:
    ratio = numpy_helper.from_array(np.float32(1e-4))
    mode = numpy_helper.from_array(np.array(training))
    return _hand(
        helper.make_node("Constant", [], ["ratio"], value=ratio),
        helper.make_node("Constant", [], ["training"], value=mode),
        helper.make_node("Dropout", ["logits", "ratio", "training"], ["other"]),
        outputs=[_output(TensorProto.FLOAT, "n", 4)],
    )


def test_a_dropout_that_drops_nothing(tmp_path: Path) -> None:
    import_onnx(_drops(training=False)(tmp_path), "v1.0.0", tmp_path / "a", spec=GEARS)


def _without_data(folder: Path) -> Path:
    path = exported(folder)
    path.with_name("dynamo.onnx.data").unlink()
    return path


def _data(**told: str) -> Callable[[Path], Path]:
    """Say something else of the data that is in the file beside a model."""

    def write(folder: Path) -> Path:
        path = exported(folder)
        model = onnx.load(str(path), load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = told.get(entry.key, entry.value)
        path.write_bytes(model.SerializeToString())
        (folder / "linked.data").symlink_to("dynamo.onnx.data")
        return path

    return write


class Memory(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(7, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, seen: Tensor, h: Tensor, c: Tensor) -> Any:
        made, (h, c) = self.cell(seen[:, None], (h, c))
        return self.head(made[:, 0]), h, c


def _memory(folder: Path) -> Path:
    given = torch.zeros(2, 7), torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)
    axes = {"obs": {0: "n"}, "h_in": {1: "n"}, "c_in": {1: "n"}}
    names = ("obs", "h_in", "c_in")
    return written(folder / "p.onnx", Memory(), *given, names=names, dynamic_axes=axes)


class AsFloats(nn.Module):
    def forward(self, given: Tensor) -> Tensor:
        return given.float()


VECTOR = ["--fields", "speed,steering,sensors:5", "--layout", "throttle,brake,steer"]
GEAR = ["--spec", str(GEARS).replace("'", '"')]
_DRAW = helper.make_node("RandomNormalLike", ["logits"], ["other"])
_SUM = helper.make_node("ReduceMean", ["logits"], ["middle"], keepdims=1)
_MINUS = helper.make_node("Sub", ["logits", "middle"], ["other"])
_TEXT = helper.make_tensor("text", TensorProto.STRING, [1], [b"brake"])
WRONG: dict[str, tuple[Callable[[Path], Path], list[str], str]] = {
    "an artifact's": (
        lambda folder: written(folder / "p.onnx", nn.Linear(8, 3), torch.zeros(2, 8)), VECTOR,
        "it takes x0 (n, 8) of float, and an observation is 7 float32 features: say what",
    ),
    "over 2 GB": (_huge, VECTOR, "it has more than 2147483647 bytes"),
    "no data": (_without_data, VECTOR, "its data file dynamo.onnx.data can't be read ("),
    "data elsewhere": (_data(location="../../etc/passwd"), VECTOR, "file ../../etc/passwd can't"),
    "data linked": (_data(location="linked.data"), VECTOR, "is a symbolic link.): copy it beside"),
    "data of -1 bytes": (_data(length="-1"), VECTOR, "dynamo.onnx.data can't be read (External"),
    "data at x": (_data(offset="x"), VECTOR, "its data file dynamo.onnx.data can't be read ("),
    "data of 40 GB": (_data_of(40 << 30), GEAR, "with its data it is larger than 2 GB"),
    "data of 6 GB": (_data_of(40 << 30, length=6 << 30), GEAR, "it is larger than 2 GB"),
    "data of a short file": (_data_of(8, length=48), GEAR, "its data file sparse can't be read ("),
    "a long loop": (_loop, GEAR, "it has a Loop of 4611686018427387904 steps, and 1000000 are"),
    "drops": (_drops(training=True), GEAR, "it drops numbers at random (Dropout in training mode)"),
    "opset 29": (_hand(opset=29), GEAR, "its opset is 29, and 9 to"),
    "opset 8": (_hand(opset=8), GEAR, "export it again with opset_version=18"),
    "own operator": (
        _hand(helper.make_node("Steer", ["logits"], ["other"], domain="my.own"),
              outputs=[_output(TensorProto.FLOAT, "n", 4)], domains=["my.own"]), GEAR,
        "it has the operator Steer of my.own, which ONNX Runtime does not have",
    ),
    "draws": (
        _hand(_DRAW, outputs=[_output(TensorProto.FLOAT, "n", 4)]), GEAR,
        "it draws random numbers (RandomNormalLike)",
    ),
    "rows depend": (
        _hand(_SUM, _MINUS, outputs=[_output(TensorProto.FLOAT, "n", 4)]), GEAR,
        "its action for an observation depends on the others in the batch",
    ),
    "chosen": (
        _hand(helper.make_node("ArgMax", ["logits"], ["other"], axis=1),
              outputs=[_output(TensorProto.INT64, "n", 1)]), GEAR,
        "its output other is int64: it must give floats",
    ),
    "text out": (
        _hand(helper.make_node("Constant", [], ["other"], value=_TEXT),
              outputs=[_output(TensorProto.STRING, 1)]), GEAR,
        "its output other is string: it must give floats",
    ),
    "a memory": (_memory, VECTOR, "as of a policy with a memory: declare its state in --spec"),
    "a memory by hand": (
        lambda folder: watching(
            folder / "p.onnx", {"front": _SMALL, "rear": _SMALL}, "state", state=True
        ), ["--spec", str(_TWO).replace("'", '"')], "rear, state, as of a policy with a memory",
    ),
    "three outputs": (
        _net(lambda made, value: (made[:, :3], value, value)), VECTOR,
        "say what the second is with --second-output",
    ),
    "two outputs": (
        _net(lambda made, value: (made[:, :3], value)), VECTOR, "say what it is with --second-out",
    ),
    **{
        name: (
            _net(gaussian, output_names=["mean", name]), VECTOR,
            "say what it is with --second-output: std",
        )
        for name in ("log_std", "std")
    },
    "the value first": (
        _net(lambda made, value: (value, made[:, :3]), output_names=["critic", "action_mean"]),
        [*VECTOR, "--second-output", "ignore"],
        "its first output is critic, and the action is taken of the first: export it with",
    ),
    "one output": (
        _net(lambda made, _: made[:, :3]), [*VECTOR, "--second-output", "std"],
        "it has one output alone",
    ),
    "fixed": (
        _net(lambda made, _: made.reshape(4, 6)[:, :3], torch.zeros(4, 7), dynamic_axes={}), VECTOR,
        "it is made for batches of 4 alone: export it again with a dynamic batch",
    ),
    "no batch": (
        _net(lambda made, _: made[:3], torch.zeros(7), dynamic_axes={}), VECTOR,
        "export it with a first dimension for the batch",
    ),
    "no declaration": (_net(gaussian), [], "say it with --fields"),
    "another width": (_net(lambda made, _: made), VECTOR, "it gives 6 numbers for each row"),
    "no image": (by_hand_in, [*GEAR, "--scale-images"], "no input of floats takes a uint8 image"),
    "two alike": (
        lambda folder: watching(folder / "p.onnx", {"rear_image": _SMALL, "front_image": _SMALL}),
        ["--spec", str(_TWO).replace("'", '"')],
        "name the inputs as the observation's parts: rear_image and front_image may be any of "
        "front, rear",
    ),
    "a small image turned": (
        lambda folder: watching(folder / "p.onnx", {"rear": (3, 2, 2), "front": (2, 2, 3)}),
        ["--spec", str(eyes(front=eye(2, 2, 3), rear=eye(2, 2, 3))).replace("'", '"')],
        "it takes rear (n, 3, 2, 2) of uint8 and front (n, 2, 2, 3) of uint8, and an observation",
    ),
    "floats as integers": (
        lambda folder: written(
            folder / "p.onnx", nn.Sequential(AsFloats(), nn.Linear(7, 3)),
            torch.zeros(2, 7, dtype=torch.int64),
        ), VECTOR, "it takes x0 (n, 7) of int64, and an observation is 7 float32 features: export "
        "it with inputs of floats",
    ),
    "more inputs": (
        _hand(inputs=[helper.make_tensor_value_info("lane", TensorProto.FLOAT, ["n", 1])]), GEAR,
        "it takes speed (n, 1) of float and gear (n) of int64 and lane (n, 1) of float, and an",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, options, told = WRONG[name]
    path = str(make(tmp_path))
    where = ["--version", "v1.0.0", "--artifacts", str(tmp_path / "a")]
    monkeypatch.setattr(sys, "argv", ["carlarl", "import-onnx", path, *where, *options])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert told in said
    assert "Traceback" not in said
    assert said.count("\n") == 1, said
    assert not (tmp_path / "a" / "v1.0.0").exists()
