"""Policies of torch, TorchScript and ONNX whose state the user declares."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from converters.artifact import artifact
from converters.artifact.artifact import Artifact
from converters.artifact.card import ArtifactError
from converters.artifact.observations import drawn
from converters.importers.import_onnx import import_onnx
from converters.importers.torch_module import import_torch
from converters.importers.torchscript import import_torchscript
from tests.converters import driving, own_memories
from tests.converters.own_memories import HIDDEN, SEEN, Gru, Keeps, Lstm, Torchs

HERE = "tests.converters.own_memories"
SPACE = {"type": "Box", "dtype": "float32", "shape": [SEEN], "low": -1, "high": 1}
BOX = {"type": "Box", "dtype": "float32", "shape": [2], "low": -1, "high": 1}
LAYERS = {"dtype": "float32", "shape": [2, HIDDEN]}
LSTM = {"h": LAYERS, "c": LAYERS}
CELL = {
    "hidden": {"dtype": "float32", "shape": [HIDDEN]},
    "count": {"dtype": "int64", "shape": [1]},
}  # fmt: skip


def spec(state: Any, action: Any = BOX) -> Any:
    return {"observation_space": SPACE, "action_space": action, "state": state}


def of_torch(folder: Path, name: str, state: Any, action: Any = BOX, **said: Any) -> Path:
    weights = folder / "weights.pt"
    torch.save(getattr(own_memories, name)().state_dict(), weights)
    said |= {"checkpoint": [weights], "spec": spec(state, action)}
    return import_torch(f"{HERE}:{name}", "v1.0.0", folder / "artifacts", **said)


def _example(module: nn.Module) -> tuple[torch.Tensor, ...]:
    if isinstance(module, Torchs):
        return torch.zeros(2, SEEN), torch.zeros(2, 2, HIDDEN), torch.zeros(2, 2, HIDDEN)
    if isinstance(module, Gru):
        return torch.zeros(2, SEEN), torch.zeros(2, HIDDEN), torch.zeros(2, 1, dtype=torch.int64)
    return torch.zeros(2, SEEN), torch.zeros(2, 2, HIDDEN), torch.zeros(2, 2, HIDDEN)


def of_script(folder: Path, module: nn.Module, state: Any, **said: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced: Any = torch.jit.trace(module.eval(), _example(module), check_trace=False)
    traced.save(folder / "program.pt")
    return import_torchscript(
        folder / "program.pt", "v1.0.0", folder / "artifacts", spec=spec(state), **said
    )


def exported(
    folder: Path,
    module: nn.Module,
    inputs: Sequence[str],
    outputs: Sequence[str],
    axis: int | None = 0,
    rows: int = 2,
) -> Path:
    """Export a module; the rows of its state are the dimension `axis`, or fixed."""
    given = tuple(
        one[:rows] if index == 0 or axis == 0 else one[:, :rows]
        for index, one in enumerate(_example(module))
    )
    axes = {name: {0: "n"} for name in (inputs[0], *outputs[: len(outputs) - len(inputs) + 1])}
    axes |= {name: {axis: "n"} for name in (*inputs[1:], *outputs[len(axes) - 1 :])}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), given, folder / "p.onnx", input_names=list(inputs), dynamo=False,
            output_names=list(outputs), dynamic_axes={} if axis is None else axes,
        )  # fmt: skip
    return folder / "p.onnx"


def of_onnx(folder: Path, path: Path, state: Any, **said: Any) -> Path:
    return import_onnx(path, "v1.0.0", folder / "artifacts", spec=spec(state), **said)


def check_drive(folder: Path, module: nn.Module, source: Artifact, choose: Any = None) -> None:
    """Compare a long drive with the module's own, whose rows are first."""
    module = module.eval()
    rows, start = drawn(source.card.signature.observation_space, driving.STEPS, 3), driving.starts()
    expected = []
    for seen, first in zip(torch.from_numpy(rows[0]), start, strict=True):
        if first:
            state = [one[:1] for one in _example(module)[1:]]
        with torch.inference_mode():
            made = module(seen[None], *state)
        state = list(made[len(made) - len(state) :])
        expected.append(made[0][0].numpy())
    wanted = np.array(expected).clip(-1, 1) if choose is None else choose(np.array(expected))
    assert np.std(wanted) > 0.05
    for name, step in driving.opened(source, folder / "formats").items():
        found = driving.drive(step, source, rows, start)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", ["Lstm", "Gru"])
def test_modules(name: str, tmp_path: Path) -> None:
    said: Any = {"second_output": "std"} if name == "Gru" else {}
    source = artifact.load(of_torch(tmp_path, name, CELL if name == "Gru" else LSTM, **said))
    check_drive(tmp_path, getattr(own_memories, name)(), source)


def test_a_distribution_with_a_nested_state(tmp_path: Path) -> None:
    source = artifact.load(of_torch(tmp_path, "Drawn", LSTM, {"type": "Discrete", "n": 2}))
    assert source.card.signature.noise == "gumbel"
    check_drive(tmp_path, Lstm(), source, lambda made: made.argmax(axis=1, keepdims=True))


@pytest.mark.parametrize("method", [["step"], ["forward"]])
def test_a_method_with_a_state(method: list[str], tmp_path: Path) -> None:
    source = artifact.load(of_torch(tmp_path, "Lstm", LSTM, method=method))
    check_drive(tmp_path, Lstm(), source)


@pytest.mark.parametrize("module", [Lstm(), Gru()], ids=["LSTM", "GRU"])
def test_programs(module: nn.Module, tmp_path: Path) -> None:
    said: Any = {"second_output": "std"} if isinstance(module, Gru) else {}
    folder = of_script(tmp_path, module, CELL if said else LSTM, **said)
    check_drive(tmp_path, module, artifact.load(folder))


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (("obs", "h", "c"), ("mean", "next_h", "next_c")),
        (("obs", "h_in", "c_in"), ("mean", "h_out", "c_out")),
        (("obs", "state.h", "state.c"), ("mean", "next_state.h", "next_state.c")),
        (("obs", "h0", "c0"), ("mean", "hn", "cn")),
        (("x", "y", "z"), ("p", "q", "r")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("order", ["h c", "c h"])
def test_models_by_name_or_in_order(inputs: Any, outputs: Any, order: str, tmp_path: Path) -> None:
    """Where the names tell, the declared order does not matter; else it is the model's."""
    names = order.split()
    path = exported(tmp_path, Lstm(), inputs, outputs)
    if inputs[0] == "x" and order == "c h":
        names = ["first", "second"]
    source = artifact.load(of_onnx(tmp_path, path, dict.fromkeys(names, LAYERS)))
    assert [leaf.name for leaf in source.card.signature.state] == names
    check_drive(tmp_path, Lstm(), source)


class Shown(nn.Module):
    """A `Torchs`, with the rows first."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Torchs()

    def forward(self, seen: Any, *state: Any) -> Any:
        made, *after = self.inner(seen, *(one.transpose(0, 1).contiguous() for one in state))
        return made, *(one.transpose(0, 1) for one in after)


@pytest.mark.parametrize(("axis", "rows"), [(1, 2), (None, 1)], ids=["dynamic", "fixed"])
def test_models_with_the_layers_first(axis: Any, rows: int, tmp_path: Path) -> None:
    """As torch.onnx writes an LSTM; a fixed batch of one is made free."""
    names = ("obs", "h0", "c0"), ("mean", "hn", "cn")
    path = exported(tmp_path, Torchs(), *names, axis=axis, rows=rows)
    source = artifact.load(of_onnx(tmp_path, path, LSTM))
    check_drive(tmp_path, Shown(), source)


def test_a_model_with_a_count_and_a_value(tmp_path: Path) -> None:
    """Of the outputs, one between the action and the state is left away."""
    names = ("obs", "hidden", "count"), ("mean", "value", "hidden_out", "count_out")
    path = exported(tmp_path, Gru(), *names)
    source = artifact.load(of_onnx(tmp_path, path, CELL, second_output="ignore"))
    assert source.card.signature.noise == "none"
    check_drive(tmp_path, Gru(), source)


def _deaf(folder: Path) -> Path:
    """A model whose state goes round by itself."""
    floats = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2])
        for name in ("obs", "h", "mean", "next_h")
    ]
    nodes = [
        helper.make_node("Tanh", ["obs"], ["mean"]), helper.make_node("Identity", ["h"], ["next_h"])
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "g", floats[:2], floats[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "p.onnx").write_bytes(model.SerializeToString())
    return folder / "p.onnx"


WRONG_TORCH = {
    "forgets": ("Forgets", LSTM, {}, r"gives Tensor: it must .* behind that the next h, c$"),
    "deaf": ("Deaf", LSTM, {}, "its h has no effect on what it gives: leave it out of state:"),
    "stays": ("Stays", LSTM, {}, "it gives the next h as it was, always: give the new one"),
    "layers first": (
        "Torchs", {"h": {**LAYERS, "shape": [3, HIDDEN]}, "c": LAYERS}, {}, "it can't be called: R"
    ),
    "wrong shape": (
        "Lstm", {"h": LAYERS, "c": {**LAYERS, "shape": [2, 7]}}, {}, "it can't be called: Runtime"
    ),
    "swapped": (
        "Turned", {"h": LAYERS, "c": {"dtype": "float32", "shape": [2 * HIDDEN]}}, {},
        "it gives the next h as float32 of shape .2, 16., and .* in the order in which it is decl",
    ),
    "swapped names": (
        "Lstm", {"c": LAYERS, "h": LAYERS}, {},
        "it takes seen, h, c, and the state is declared as c, h: declare it in the order of these",
    ),
    "missing": ("Lstm", {"h": LAYERS}, {}, "it takes seen, h, c, and it must take 1 of the obser"),
    "unknown": ("Keeps", {"h": LAYERS}, {}, "it takes seen, and it must take 1 of the observatio"),
    "wrong type": (
        "Half", LSTM, {}, r"the next h as float64 of shape .*, and by its state: it is float32 of",
    ),
    "bad spec": ("Lstm", {"h": {"dtype": "float32"}}, {}, "state.h: shape is missing"),
    "methods": ("Lstm", LSTM, {"method": ["lstm", "head"]}, "must be one method: name that alone"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_TORCH)
def test_wrong_modules(name: str, tmp_path: Path) -> None:
    module, state, said, message = WRONG_TORCH[name]
    with pytest.raises(ArtifactError, match=message) as told:
        of_torch(tmp_path, module, state, **said)
    assert "\n" not in str(told.value)


def test_an_ensemble_with_a_state(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    torch.save(Lstm().state_dict(), weights)
    with pytest.raises(ArtifactError, match="can't be an ensemble: give one checkpoint"):
        import_torch(
            f"{HERE}:Lstm", "v1.0.0", tmp_path, checkpoint=[weights, weights], spec=spec(LSTM)
        )


WRONG_PROGRAMS: dict[str, tuple[nn.Module, Any, str]] = {
    "layers first": (Torchs(), LSTM, "rows"),
    "missing": (Lstm(), {"h": LAYERS}, "it takes seen, h, c, and it must take 1 of the observati"),
    "swapped": (Lstm(), {"c": LAYERS, "h": LAYERS}, "declare it in the order of these"),
    "shape": (
        Lstm(), {"h": LAYERS, "c": {**LAYERS, "shape": [2, 9]}},
        "on two rows of 5 float32 features and 2 × 8 float32 of state.h and 2 × 9 float32 of state",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_PROGRAMS)
def test_wrong_programs(name: str, tmp_path: Path) -> None:
    module, state, message = WRONG_PROGRAMS[name]
    with pytest.raises(ArtifactError, match=message) as told:
        of_script(tmp_path, module, state)
    assert "\n" not in str(told.value)


def test_a_state_inside(tmp_path: Path) -> None:
    torch.jit.script(Keeps()).save(tmp_path / "program.pt")
    with pytest.raises(ArtifactError, match="its attribute hidden .* declared as `state:` in --s"):
        import_torchscript(
            tmp_path / "program.pt", "v1.0.0", tmp_path / "artifacts", fields=["vector:5"]
        )


NAMES = ("obs", "h_in", "c_in"), ("mean", "h_out", "c_out")
WRONG_MODELS: dict[str, tuple[Any, Any, str]] = {
    "not declared": (NAMES, {"h": LAYERS}, "as of a policy with a memory: declare its state in -"),
    "one named": (
        (("obs", "h", "x"), NAMES[1]), LSTM, "it takes obs, h, x, and its state is h, c: name eac"
    ),
    "one output named": (
        (NAMES[0], ("mean", "h_out", "y")), LSTM, "it gives mean, h_out, y, and its state is h, c"
    ),
    "too few": (
        NAMES, dict.fromkeys("abc", LAYERS), "it takes obs, h_in, c_in, and with the state a, b, c"
    ),
    "shape": (
        NAMES, {"h": LAYERS, "c": {**LAYERS, "shape": [3, HIDDEN]}},
        r"its input c_in has the shape \(n, 2, 8\), and --spec declares c of its state as \[3, 8\]",
    ),
    "type": (
        NAMES, {"h": LAYERS, "c": {**LAYERS, "dtype": "float64"}},
        "its input c_in is float, and --spec declares c of its state as float64: declare the mod",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_MODELS)
def test_wrong_models(name: str, tmp_path: Path) -> None:
    names, state, message = WRONG_MODELS[name]
    with pytest.raises(ArtifactError, match=message) as told:
        of_onnx(tmp_path, exported(tmp_path, Lstm(), *names), state)
    assert "\n" not in str(told.value)


def test_a_model_whose_state_never_changes(tmp_path: Path) -> None:
    small = {"dtype": "float32", "shape": [2]}
    space = {**SPACE, "shape": [2]}
    told = {"observation_space": space, "action_space": BOX, "state": {"h": small}}
    with pytest.raises(ArtifactError, match="the next h as it was, always"):
        import_onnx(_deaf(tmp_path), "v1.0.0", tmp_path / "artifacts", spec=told)
