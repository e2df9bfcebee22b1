"""A TorchScript program becomes an artifact that acts as the program does."""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from converters.artifact import artifact
from converters.artifact.card import ArtifactError
from converters.export import parity
from converters.export.export import export
from converters.importers.torchscript import import_torchscript


class Program(nn.Module):
    def __init__(self, features: int, actions: int, outputs: int = 1) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layers = nn.Sequential(nn.Linear(features, 8), nn.GELU(), nn.Linear(8, actions))
        self.outputs = outputs

    def forward(self, features: Tensor) -> Any:
        mean = self.layers(features) * 3
        if self.outputs == 1:
            return mean
        return (mean, torch.full_like(mean, 0.3)) + (mean,) * (self.outputs - 2)


def _pedals(raw: Any, layout: tuple[str, ...]) -> Any:
    columns = dict(zip(layout, raw.T, strict=True))
    if "acceleration" in columns:
        columns |= {"throttle": columns["acceleration"], "brake": -columns["acceleration"]}
    stacked = np.stack([columns[name] for name in ("throttle", "brake", "steer")], axis=1)
    return np.clip(stacked, (0, 0, -1), (1, 1, 1))


def program(folder: Path, sensors: int = 5, actions: int = 3, outputs: int = 1) -> Path:
    traced = torch.jit.trace(Program(sensors + 2, actions, outputs), torch.zeros(2, sensors + 2))
    traced.save(folder / "program.pt")
    return folder / "program.pt"


def _fields(sensors: int) -> list[str]:
    return ["speed", "steering", f"sensors:{sensors}"]


@pytest.mark.parametrize("squash", ["clip", "tanh"])
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize(
    ("sensors", "layout"),
    [(5, ("throttle", "brake", "steer")), (9, ("steer", "acceleration"))],
)
def test_acts_as_the_program(
    tmp_path: Path, sensors: int, layout: tuple[str, ...], outputs: int, squash: str
) -> None:
    path = program(tmp_path, sensors, len(layout), outputs)
    scaler = StandardScaler().fit(np.random.default_rng(0).normal(3, 5, (50, sensors + 2)))
    (tmp_path / "scaler.pkl").write_bytes(pickle.dumps(scaler))
    folder = import_torchscript(
        path, "v0.3.0", tmp_path / "artifacts", fields=_fields(sensors),
        layout=layout, squash=squash, preprocessor=tmp_path / "scaler.pkl",
        second_output=None if outputs == 1 else "std",
    )  # fmt: skip
    source = artifact.load(folder)
    assert source.card.distribution.std == ("none" if outputs == 1 else "parameter")
    observations = np.random.default_rng(1).normal(3, 5, (20, sensors + 2)).astype(np.float32)
    features = scaler.transform(observations.astype(np.float64)).astype(np.float32)
    with torch.inference_mode():
        output = torch.jit.load(path)(torch.from_numpy(features))
    mean = (output if outputs == 1 else output[0]).numpy()
    if squash == "tanh":
        low = np.array([0.0 if name in ("throttle", "brake") else -1.0 for name in layout])
        mean = low + (np.tanh(mean) + 1) / 2 * (1 - low)
    noise = np.zeros((20, len(layout)), np.float32)
    got = parity.actions(source, source.preprocessing.features(observations), noise)
    np.testing.assert_allclose(got, _pedals(mean, layout), atol=1e-5)
    export([folder], tmp_path / "repository")


PEDALS = ("throttle", "brake", "steer")


class Made(nn.Module):
    """A network, and what `make` makes of its output and the features."""

    def __init__(self, make: Any, *between: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.layers = nn.Sequential(nn.Linear(7, 8), *between, nn.Linear(8, 3))
        self.value = nn.Linear(7, 1)
        self.make = make

    def forward(self, features: Tensor) -> Any:
        return self.make(self, self.layers(features), features)


def traced(make: Any, *between: nn.Module, rows: int = 2, train: bool = False) -> Any:
    module = Made(make, *between).train(train)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # some are wrong on purpose
        return torch.jit.trace(module, torch.zeros(rows, 7), check_trace=False)


def same(_: Any, made: Tensor, features: Tensor) -> Any:
    return made


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(7, 3), 0

    def forward(self, features: Tensor) -> Tensor:
        self.calls += 1
        made: Tensor = self.layer(features)
        return made


class Changes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(7, 3)
        self.register_buffer("mean", torch.zeros(7))

    def forward(self, features: Tensor) -> Tensor:
        if bool(features.sum() > 900):
            self.mean[0].mul_(0.9)
        made: Tensor = self.layer(features - self.mean)
        return made


class Trains(Changes):
    def forward(self, features: Tensor) -> Tensor:
        if self.training and features.shape[0] > 1:
            self.mean.mul_(0.9)
        made: Tensor = self.layer(features - self.mean)
        return made


class WithoutForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(7, 3)

    @torch.jit.export
    def act(self, features: Tensor) -> Tensor:
        made: Tensor = self.layer(features)
        return made


class OneRow(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        if features.shape[0] != 1:
            raise ValueError("one row only")
        return features[:, :3]


EVAL = "call eval\\(\\) on the policy before it is traced"
WRONG: dict[str, tuple[Any, str]] = {
    "dropout": (
        lambda: traced(same, nn.Dropout(0.5), train=True),
        f"another action for the same observation each time, as with Dropout .*{EVAL}",
    ),
    "batch norm": (
        lambda: traced(same, nn.BatchNorm1d(8), train=True),
        f"depends on the others in the batch, as with BatchNorm in training mode: {EVAL}",
    ),
    "log-std": (lambda: traced(lambda _, x, f: (x, x - 2)), "second output is -.* log-std .its l"),
    "log-std for all": (
        lambda: traced(lambda _, x, f: (x, torch.full((3,), -1.5))),
        r"has the shape \(3,\), the action \(16, 3\): say what it is with --second-output",
    ),
    "value": (lambda: traced(lambda s, x, f: (x, s.value(f))), r"shape \(16, 1\).*action, value"),
    "one action": (
        lambda: traced(lambda s, x, f: (s.value(f), s.value(f).exp())),
        "may be a standard deviation, its logarithm, or something else: say what it is",
    ),
    "positive": (
        lambda: traced(lambda _, x, f: (x, x.tanh() + 2)),
        "may be a standard deviation, its log.*: say what it is with --second-output",
    ),
    "three": (lambda: traced(lambda _, x, f: (x, x, x)), "it gives Tensor, Tensor, Tensor: it mu"),
    "list": (lambda: traced(lambda _, x, f: [x]), "it gives list: it must give one tensor"),
    "chosen": (lambda: traced(lambda _, x, f: x.argmax(1)), "it gives torch.int64: .* logits"),
    "two rows": (
        lambda: traced(lambda _, x, f: x.view(2, 3)),
        "runs on 2 rows and not on 1, as if the number of rows had been built in .*: RuntimeError",
    ),
    "two rows, silently": (
        lambda: traced(lambda _, x, f: x * torch.ones(2, 3)),
        r"for a batch of 1 it gives the shape \(2, 3\), and not \(1, actions\)",
    ),
    "five rows": (
        lambda: traced(lambda _, x, f: x * torch.ones(5, 3), rows=5),
        "does not run on two rows of 7 float32 features: RuntimeError: The size of tensor a",
    ),
    "not finite": (lambda: traced(lambda _, x, f: x / 0 * 0), "is not finite"),
    "raises": (lambda: torch.jit.script(OneRow()), "builtins.ValueError: one row only"),
    "no forward": (lambda: torch.jit.script(WithoutForward()), "no method forward"),
    "changes": (lambda: torch.jit.script(Changes()), "changes its attribute mean whenever"),
    "counts": (lambda: torch.jit.script(Counts()), "changes its attribute calls whenever"),
}


@pytest.mark.parametrize("name", WRONG)
def test_no_policy(name: str, tmp_path: Path) -> None:
    make, message = WRONG[name]
    make().save(tmp_path / "program.pt")
    given: Any = {} if name == "one action" else {"layout": PEDALS}
    with pytest.raises(ArtifactError, match=message) as told:
        import_torchscript(
            tmp_path / "program.pt", "v0.3.0", tmp_path / "a", fields=_fields(5), **given
        )
    assert "\n" not in str(told.value)
    assert not (tmp_path / "a" / "v0.3.0").exists()


@pytest.mark.parametrize(
    "make",
    [
        lambda: traced(same, nn.LeakyReLU(0.2)),
        lambda: traced(same, nn.ELU(0.5)),
        lambda: traced(same, nn.Dropout(0.5)),
        lambda: traced(same, nn.BatchNorm1d(8)),
        lambda: torch.jit.script(nn.Sequential(nn.Linear(7, 3), nn.Dropout(0.5)).train()),
        lambda: torch.jit.script(Trains()),
        lambda: torch.jit.script(nn.Sequential(nn.Linear(7, 3), nn.BatchNorm1d(3))),
        lambda: traced(lambda _, x, f: x.double() * torch.ones(3, dtype=torch.float64)),
        lambda: traced(lambda _, x, f: x.bfloat16()),
        lambda: traced(lambda _, x, f: x.half()),
    ],
    ids=[
        "LeakyReLU",
        "ELU",
        "dropout",
        "batch norm",
        "scripted",
        "trains",
        "scripted norm",
        "float64",
        "bfloat16",
        "half",
    ],
)
def test_taken_and_exported(make: Any, tmp_path: Path) -> None:
    make().save(tmp_path / "program.pt")
    folder = import_torchscript(
        tmp_path / "program.pt", "v0.3.0", tmp_path / "a", fields=_fields(5), layout=PEDALS
    )
    source = artifact.load(folder)
    rows = torch.from_numpy(np.random.default_rng(1).normal(size=(50, 7)).astype(np.float32))
    with torch.inference_mode():
        expected = torch.jit.load(tmp_path / "program.pt").eval()(rows).float().numpy()
    made = parity.actions(source, rows.numpy(), np.zeros((50, 1), np.float32))
    np.testing.assert_allclose(made, expected.clip((0, 0, -1), 1), atol=1e-5)
    export([folder], tmp_path / "repository")


@pytest.mark.parametrize("second", ["log-std", "ignore"])
def test_a_second_output_that_the_user_names(second: str, tmp_path: Path) -> None:
    traced(lambda _, x, f: (x, torch.full((3,), -1.5))).save(tmp_path / "program.pt")
    given: Any = {"fields": ["vector:7"], "layout": PEDALS, "second_output": second}
    folder = import_torchscript(tmp_path / "program.pt", "v0.3.0", tmp_path / "a", **given)
    policy = artifact.load(folder).policy
    with torch.inference_mode():
        _, std = policy.gaussian(torch.zeros(4, 7))
    expected = np.exp(-1.5) if second == "log-std" else 0
    np.testing.assert_allclose(std.numpy(), np.full((4, 3), expected), rtol=1e-6)


def test_a_second_output_that_is_not_there(tmp_path: Path) -> None:
    traced(same).save(tmp_path / "program.pt")
    with pytest.raises(ArtifactError, match="--second-output: it has one output alone"):
        import_torchscript(
            tmp_path / "program.pt", "v0.3.0", tmp_path, fields=["vector:7"], second_output="std"
        )


TABLE = [{"throttle": 1}, {"steer": -0.5}, {"brake": 1}]


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({}, "Box"),
        ({"table": TABLE}, "Discrete"),
        ({"axes": {"steer": [-1, 0, 1]}}, "MultiDiscrete"),
        ({"axes": [{"steer": [-1, 0, 1]}]}, "MultiDiscrete"),
        ({"spec": {"action_space": {"type": "MultiBinary", "n": 3}}}, "MultiBinary"),
        ({"spec": {"action_space": {"type": "Discrete", "n": 3, "start": 4}}}, "Discrete"),
        (
            {
                "spec": {
                    "action_space": {"type": "Discrete", "n": 3},
                    "control": {"table": TABLE},
                    "repeat": 2,
                    "distribution": {"noise": "none"},
                }
            },
            "Discrete",
        ),
    ],
)
def test_actions_of_other_spaces(given: dict[str, Any], kind: str, tmp_path: Path) -> None:
    traced(same).save(tmp_path / "program.pt")
    if "spec" in given:
        space = {
            "type": "Dict",
            "subspaces": {
                "gear": {"type": "Discrete", "n": 4},
                "rays": {"type": "Box", "dtype": "float32", "shape": [3], "low": 0, "high": 9},
            },
        }
        given = {"spec": {"observation_space": space, **given["spec"]}}
    else:
        given = {"fields": ["gear", "rays:6"], **given}
    folder = import_torchscript(tmp_path / "program.pt", "v0.3.0", tmp_path / "a", **given)
    source = artifact.load(folder)
    assert source.card.action_space is not None
    assert source.card.action_space["type"] == kind
    spec = given.get("spec", {})
    assert source.card.signature.repeat == spec.get("repeat", 1)
    assert (source.card.signature.noise == "none") == (kind == "Box" or "distribution" in spec)
    export([folder], tmp_path / "repository")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "a program does not tell what an observation is: say it with --fields"),
        ({"fields": ["a:7"], "squash": "tanh"}, "tanh needs finite bounds"),
        (
            {"fields": ["a:7"], "squash": "tanh", "table": TABLE},
            "tanh: it is for a mean, and an action",
        ),
        ({"fields": ["a:7"], "table": TABLE[:2]}, "it gives 3 numbers .* the action needs 2"),
        ({"fields": ["a:7"], "table": "none"}, "--table: must be a list, one control"),
        ({"fields": ["a:7"], "axes": {"steer": 3}}, "--axes: must be names with values"),
        ({"fields": ["a:7"], "spec": {}, "repeat": 2}, "--spec: it says what --repeat, --fields w"),
        ({"spec": []}, "--spec: must be a mapping"),
        ({"spec": {"observation_space": {}, "sensors": 5}}, "--spec: action_space is missing"),
    ],
)
def test_what_is_said_and_wrong(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    traced(same).save(tmp_path / "program.pt")
    with pytest.raises(ArtifactError, match=message) as told:
        import_torchscript(tmp_path / "program.pt", "v0.3.0", tmp_path / "a", **given)
    assert "\n" not in str(told.value)


def _scaler(names: list[str], path: Path) -> Path:
    scaler = StandardScaler().fit(np.random.default_rng(0).normal(3, 5, (50, len(names))))
    scaler.feature_names_in_ = np.array(names, object)
    path.write_bytes(pickle.dumps(scaler))
    return path


SENSORS = [f"sensors_{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("names", "good"),
    [
        (["speed", "steering", *SENSORS], True),
        (["v", "delta", "a", "b", "c", "d", "e"], True),
        (["Steering", "Speed", *SENSORS], False),
        ([*SENSORS, "speed", "steering"], False),
        (["speed", "steering", *reversed(SENSORS)], False),
    ],
)
def test_a_scaler_of_named_columns(names: list[str], good: bool, tmp_path: Path) -> None:
    traced(same).save(tmp_path / "program.pt")
    said: list[str] = []
    given: Any = {"fields": _fields(5), "preprocessor": _scaler(names, tmp_path / "scaler.pkl")}
    if good:
        import_torchscript(tmp_path / "program.pt", "v0.3.0", tmp_path, **given, tell=said.append)
        assert f"fitted on the columns {', '.join(names)}: the observation has this o" in said[0]
        return
    with pytest.raises(ArtifactError, match="in another order: name its fields in the scaler's"):
        import_torchscript(tmp_path / "program.pt", "v0.3.0", tmp_path, **given)


class Prints(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        print("called")
        return features[:, :3]


def test_what_a_program_prints_is_not_in_the_json(tmp_path: Path, command: Any) -> None:
    torch.jit.script(Prints()).save(str(tmp_path / "program.pt"))
    given = ["--fields", "vector:7", "--layout", "throttle,brake,steer", "--json"]
    where = ["--version", "v1.0.0", "--artifacts", str(tmp_path / "a")]
    done = command("import-torchscript", str(tmp_path / "program.pt"), *given, *where)
    assert json.loads(done.stdout)["model_type"] == "torchscript"
    assert "called" in done.stderr


def test_refused(tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    path = program(tmp_path)
    given: Any = {"fields": _fields(5), "layout": ("throttle", "brake", "steer")}

    def refused(path: Path, **more: Any) -> str:
        with pytest.raises(ArtifactError) as told:
            import_torchscript(path, "v0.3.0", artifacts, **{**given, **more})
        assert "\n" not in str(told.value)
        return str(told.value)

    assert "does not run on two rows of 9 float32 features" in refused(path, fields=_fields(7))
    narrow = refused(path, layout=("steer", "acceleration"))
    assert "it gives 3 numbers for each row, and the action needs 2" in narrow
    wrong = refused(path, layout=("gas", "brake", "steer"))
    assert "--layout: control.layout: must be throttle, brake, steer" in wrong
    os.mkfifo(tmp_path / "seen.npy")
    waiting = refused(path, observations=tmp_path / "seen.npy")
    assert re.fullmatch("--observations .*/seen.npy: no regular file", waiting)
    torch.save({"weights": torch.zeros(2)}, tmp_path / "weights.pt")
    assert "this is a checkpoint of torch.save" in refused(tmp_path / "weights.pt")
    assert not list(artifacts.glob("*"))


def test_a_program_that_does_not_repeat_itself_is_refused(tmp_path: Path) -> None:
    """Its actions are drawn anew each time."""

    class Random(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return torch.rand(features.shape[0], 3) + features[:, :3] * 0

    torch.jit.trace(Random(), torch.zeros(2, 7), check_trace=False).save(tmp_path / "random.pt")
    with pytest.raises(
        ArtifactError, match="it gives another action for the same observation each time"
    ):
        import_torchscript(
            tmp_path / "random.pt",
            "v0.3.0",
            tmp_path / "artifacts",
            fields=_fields(5),
            layout=("throttle", "brake", "steer"),
        )
    assert not list((tmp_path / "artifacts").glob("*"))
