"""Classes of the user's own run only with `--trust`, and serving needs none of them."""

from __future__ import annotations

import base64
import importlib
import json
import pickle
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, SAC

from carlarl.cli import cli
from converters.artifact import artifact
from converters.artifact.card import ArtifactError
from converters.importers import sb3_zip
from converters.importers.sb3 import import_sb3
from tests.converters.sb3_actions import actor_and_images, distribution
from tests.converters.test_sb3_spaces import act, inputs
from tests.converters.test_sb3_zip import FOLDER, observations

NETS = """
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from stable_baselines3.sac.policies import SACPolicy
from torch import nn


class Wave(nn.Module):
    def forward(self, value):
        return value.sin()


class ReLU(nn.Module):
    # no ReLU, whatever its name says
    def forward(self, value):
        return value.sin()


def wave():
    return Wave()


class Rays(BaseFeaturesExtractor):
    # of a matrix, whose rows it looks at one by one
    def __init__(self, space, width=3, activation=nn.Tanh):
        super().__init__(space, width)
        self.net = nn.Sequential(nn.Linear(space.shape[1], width), activation())

    def forward(self, seen):
        return self.net(seen).amax(1)


class Parts(BaseFeaturesExtractor):
    # of a Dict with an image and a one-hot code
    def __init__(self, space):
        super().__init__(space, 7)
        self.eye = nn.Conv2d(space["camera"].shape[0], 3, 8, 4)

    def forward(self, seen):
        eye = self.eye(seen["camera"]).mean((2, 3))
        return torch.cat([seen["gear"], eye, seen["map"].sum((1, 2))[:, None]], 1)


class Cnn(NatureCNN):
    pass


class Halves(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.latent_dim_pi = self.latent_dim_vf = 4
        self.pi, self.vf = nn.Linear(features, 4), nn.Linear(features, 4)

    def forward(self, features):
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features):
        return self.pi(features).cos()

    def forward_critic(self, features):
        return self.vf(features)


class Policy(ActorCriticPolicy):
    def _build_mlp_extractor(self):
        self.mlp_extractor = Halves(self.features_dim)


class Otherwise(ActorCriticPolicy):
    def _predict(self, observation, deterministic=False):
        return super()._predict(observation, True)


class Steady(nn.Linear):
    def forward(self, value):
        return super().forward(value).tanh() - 1


class Spread(SACPolicy):
    # with a standard deviation of its own
    def make_actor(self, features_extractor=None):
        actor = super().make_actor(features_extractor)
        actor.log_std = Steady(actor.log_std.in_features, actor.log_std.out_features)
        return actor


class Annealed(ActorCriticPolicy):
    # whose standard deviation is another one as soon as it acts
    def __init__(self, *given, **more):
        super().__init__(*given, **more)
        self.action_net.register_forward_pre_hook(self._anneal)

    def _anneal(self, *_):
        self.log_std.data.fill_(-1)


class Nothing:
    pass


class Fixed(Rays):
    # for two rows alone
    def forward(self, seen):
        return super().forward(seen.reshape(seen.shape[0] - seen.shape[0] + 2, 2, 3))


class Broken(Rays):
    def forward(self, seen):
        raise RuntimeError("a line,\\nand another")


class Shell:
    # it would run
    def __init__(self, space=None, mode=0, file=None, args=()):
        import os

        if file:
            os.spawnvp(mode, file, args)

    run = __init__


def shell(space, mode, file, args):
    Shell(space, mode, file, args)


SHELL = Shell()


class Lone(Rays):
    def forward(self, seen):
        if not torch.jit.is_tracing() and len(seen) == 1:
            raise RuntimeError("one row alone")
        return super().forward(seen)
"""
MATRIX = spaces.Box(-1, 1, (2, 3))
WHEEL = spaces.Box(np.array([-1, -2], np.float32), np.array([1, 3], np.float32))
VIEW = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (12, 16, 3), np.uint8),
        "gear": spaces.Discrete(3),
        "map": spaces.Box(-1, 1, (2, 2)),
    }
)
CAMERA = spaces.Box(0, 255, (36, 40, 3), np.uint8)
CASES: Any = {
    # name in NETS: algorithm, observation, policy (None: the library's), policy_kwargs
    "Rays": (A2C, MATRIX, None, {"features_extractor_class": "Rays"}),
    "Rays of SAC": (SAC, MATRIX, None, {"features_extractor_class": "Rays", "net_arch": [4]}),
    "Rays of DQN": (DQN, MATRIX, None, {"features_extractor_class": "Rays"}),
    "keywords": (
        A2C,
        MATRIX,
        None,
        {
            "features_extractor_class": "Rays",
            "features_extractor_kwargs": {"width": 5, "activation": "Wave"},
            "share_features_extractor": False,
        },
    ),
    "Parts": (A2C, VIEW, None, {"features_extractor_class": "Parts"}),
    "Cnn": (
        A2C,
        CAMERA,
        None,
        {"features_extractor_class": "Cnn", "features_extractor_kwargs": {"features_dim": 8}},
    ),
    "Wave": (A2C, MATRIX, None, {"activation_fn": "Wave"}),
    "ReLU": (SAC, MATRIX, None, {"activation_fn": "ReLU", "net_arch": [4]}),
    "wave": (A2C, MATRIX, None, {"activation_fn": "wave"}),
    "Policy": (A2C, MATRIX, "Policy", {}),
    "Spread": (SAC, MATRIX, "Spread", {"net_arch": [4]}),
}


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module `my_project.nets`."""
    folder = tmp_path / "modules" / "my_project"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "nets.py").write_text(NETS)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.syspath_prepend(folder.parent)
    yield importlib.import_module("my_project.nets")
    forget()


def forget() -> None:
    for name in ("my_project", "my_project.nets"):
        sys.modules.pop(name, None)


def save(folder: Path, nets: Any, case: Any) -> Any:
    """Save a policy with random weights to `policy.zip`, and return the model."""
    kind, observation, policy, given = case

    def own(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: own(part) for key, part in value.items()}
        return getattr(nets, value) if isinstance(value, str) else value

    env = type("Empty", (gymnasium.Env,), {})()
    env.observation_space = observation
    env.action_space = spaces.Discrete(3) if kind is DQN else WHEEL
    seeing = "CnnPolicy" if observation is CAMERA else "MlpPolicy"
    plain = "MultiInputPolicy" if isinstance(observation, spaces.Dict) else seeing
    taken = plain if policy is None else getattr(nets, policy)
    options = {} if kind is A2C else {"buffer_size": 10}
    model = kind(taken, env, seed=3, device="cpu", policy_kwargs=own(given), **options)
    for weights in model.policy.parameters():
        weights.data += 0.3 * torch.randn(weights.shape)
    model.save(folder / "policy.zip")
    return model


def load(folder: Path, *trust: str) -> Path:
    """Import `policy.zip`."""
    given: Any = {"trust": trust, "vecnormalize": "none"}
    return import_sb3(folder / "policy.zip", "v1.0.0", folder / "artifacts", **given)


@pytest.mark.parametrize("name", CASES)
def test_own_classes(name: str, nets: Any, tmp_path: Path) -> None:
    model = save(tmp_path, nets, CASES[name])
    path = tmp_path / "policy.zip"
    with pytest.raises(ArtifactError, match=r"give --trust my_project\.nets if that") as told:
        load(tmp_path, "my_proj", "nets")
    assert "\n" not in str(told.value)
    folder = load(tmp_path, "my_project")
    saved = sb3_zip.read(path, ["my_project.nets"])
    batch = observations(actor_and_images(saved)[1].space, 1000)
    expected, _ = model.predict(batch, deterministic=True)

    shutil.rmtree(tmp_path / "modules")
    forget()
    source = artifact.load(folder)
    assert source.card.model_type == "torchscript"
    features, noise, *rasters = inputs(source, batch)
    np.testing.assert_allclose(
        act(source, features, noise, *rasters), expected.reshape(1000, -1), rtol=0, atol=2e-5
    )
    if CASES[name][0] is not DQN:
        told_by = distribution(saved, batch)
        with torch.inference_mode():
            _, std = source.policy.gaussian(*map(torch.from_numpy, (features, *rasters)))
        torch.testing.assert_close(std, told_by.stddev)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ((A2C, MATRIX, "Otherwise", {}), "Otherwise._predict is not Stable-Baselines3's own"),
        ((A2C, MATRIX, "Annealed", {}), "the standard deviation of its noise differs from that of"),
        ((A2C, MATRIX, None, {"features_extractor_class": "Fixed"}), "fixed number of rows"),
        ((A2C, MATRIX, None, {"features_extractor_class": "Broken"}), "RuntimeError: a line, and"),
        ((A2C, MATRIX, None, {"features_extractor_class": "Lone"}), "RuntimeError: one row alone"),
    ],
)
def test_what_can_not_be_an_artifact(case: Any, message: str, nets: Any, tmp_path: Path) -> None:
    save(tmp_path, nets, case)
    with pytest.raises(ArtifactError, match=message) as told:
        load(tmp_path, "my_project")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "artifacts" / "v1.0.0").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "my_project.nets.Rays can't be imported: ModuleNotFoundError: No module named"),
        ("import nothing_such", "ModuleNotFoundError: No module named 'nothing_such'"),
        ("raise SystemExit(3)", "can't be imported: SystemExit: 3"),
        ("", "can't be imported: AttributeError: "),
        ("class Rays: pass", "features_extractor_class is my_project.nets.Rays, no Base"),
    ],
)
def test_a_module_that_is_none(text: str | None, message: str, nets: Any, tmp_path: Path) -> None:
    save(tmp_path, nets, CASES["Rays"])
    forget()
    if text is None:
        shutil.rmtree(tmp_path / "modules")
    else:
        (tmp_path / "modules/my_project/nets.py").write_text(text)
    importlib.invalidate_caches()
    with pytest.raises(ArtifactError, match=message) as told:
        load(tmp_path, "my_project")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torch.os.spawnvp", "no class or function that my_project.nets defines itself"),
        ("torch.nn.Tanh", "no class or function that my_project.nets defines itself"),
        ("SHELL.run", "no class or function that my_project.nets defines itself"),
        ("SHELL", "no class or function that my_project.nets defines itself"),
        ("Shell", "features_extractor_class is my_project.nets.Shell, no BaseFeaturesExtractor"),
        ("shell", "features_extractor_class is my_project.nets.shell, no BaseFeaturesExtractor"),
    ],
)
def test_a_zip_runs_nothing_else_of_a_trusted_module(
    name: str, message: str, nets: Any, tmp_path: Path
) -> None:
    save(tmp_path, nets, (A2C, MATRIX, None, {}))
    mark = tmp_path / "ran"
    given = {"file": "touch", "args": ["touch", str(mark)], "mode": 0}
    held = pickle.dumps({"features_extractor_class": nets.Rays, "features_extractor_kwargs": given})
    # Protocol 4 names a class by two short texts, each behind its length.
    assert held.count(b"\x8c\x04Rays") == 1
    told = name.encode()
    held = held.replace(b"\x8c\x04Rays", b"\x8c" + bytes([len(told)]) + told)
    frame = held.index(b"\x95")
    held = held[:frame] + held[frame + 9 :]  # its length is another now
    hostile = changed(tmp_path, policy_kwargs={":serialized:": base64.b64encode(held).decode()})
    with pytest.raises(ArtifactError, match=message):
        import_sb3(hostile, "v1.0.0", tmp_path / "artifacts", trust=["my_project"])
    assert not mark.exists()


def changed(folder: Path, **entries: Any) -> Path:
    """Write `policy.zip` with other entries of its data."""
    with (
        zipfile.ZipFile(folder / "policy.zip") as source,
        zipfile.ZipFile(folder / "changed.zip", "w") as to,
    ):
        to.writestr("data", json.dumps(json.loads(source.read("data")) | entries))
        to.writestr("policy.pth", source.read("policy.pth"))
    return folder / "changed.zip"


def test_only_a_named_module_makes_the_working_directory_importable(
    nets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a file there, named like some library's module, would run without anybody's leave."""
    save(tmp_path, nets, CASES["Rays"])
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one])
    before = list(sys.path)
    plain = FOLDER / "dqn-discrete-np2.zip"
    import_sb3(plain, "v1.0.0", tmp_path / "plain", fields=None, vecnormalize="none")
    assert sys.path == before
    given: Any = {"vecnormalize": "none", "trust": ["my_project"]}
    import_sb3(tmp_path / "policy.zip", "v1.0.0", tmp_path / "own", **given)
    assert sys.path == ["", *before]


def test_the_command_finds_modules_where_it_runs(
    nets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, nets, CASES["Rays"])
    forget()
    sys.path.remove(str(tmp_path / "modules"))
    monkeypatch.chdir(tmp_path / "modules")
    command = ["import-sb3", str(tmp_path / "policy.zip"), "--version", "v1.0.0"]
    command += ["--artifacts", str(tmp_path / "artifacts"), "--vecnormalize", "none"]
    refused = CliRunner().invoke(cli, command)
    assert refused.exit_code == 1
    assert "give --trust my_project.nets" in " ".join(refused.output.split())
    done = CliRunner().invoke(cli, [*command, "--trust", "numpy", "--trust", "my_project.nets"])
    assert done.exit_code == 0, done.output
