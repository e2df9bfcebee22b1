"""`carlarl import-torch`: modules of classes of one's own, in the style of what people train."""

import json
import re
import shlex
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import click
import gymnasium
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from torch import nn

from carlarl.cli import cli
from carlarl.commands.import_torch import import_torch
from converters.artifact import artifact
from converters.artifact.artifact import Artifact
from converters.artifact.card import ArtifactError
from converters.artifact.observations import drawn
from converters.export import parity
from converters.importers import torch_module
from converters.importers.declared import DISTRIBUTIONS
from policy_spec.noise import NoiseSource
from tests.converters import own_policies
from tests.stack import ROOT

ROWS = 1000
SAMPLES = 20_000
HERE = "tests.converters.own_policies"


def _import(folder: Path, module: str, *given: str, version: str = "v1.0.0") -> Result:
    arguments = ["import-torch", f"{HERE}:{module}" if ":" not in module else module, *given]
    target = ["--artifacts", str(folder / "artifacts"), "--version", version]
    return CliRunner(env={"COLUMNS": "160"}).invoke(cli, [*arguments, *target])


def _served(folder: Path, module: str, *given: str) -> Artifact:
    result = _import(folder, module, *given)
    assert result.exit_code == 0, result.output
    return artifact.load(folder / "artifacts" / "v1.0.0")


def _saved(module: nn.Module, path: Path) -> str:
    torch.save(module.state_dict(), path)
    return str(path)


def _rows(source: Artifact, rows: int = ROWS) -> tuple[NDArray[Any], ...]:
    return drawn(source.card.signature.observation_space, rows, 7)


def _answers(source: Artifact, rows: Any, noise: NDArray[np.float32] | None = None) -> Any:
    """What is served for observations: the policy's own action, without control."""
    features, nothing, *rasters = parity.inputs(source, tuple(rows))
    given = (features, nothing if noise is None else noise, *rasters)
    with torch.inference_mode():
        return source.policy(*(torch.from_numpy(np.array(one)) for one in given)).numpy()


def _samples(source: Artifact) -> Any:
    """Many samples for one observation."""
    rows = [np.repeat(values[:1], SAMPLES, axis=0) for values in _rows(source, 1)]
    signature = source.card.signature
    noise = NoiseSource(signature.noise).draw(
        np.zeros(SAMPLES, bool),
        np.full(SAMPLES, 3, np.int64),
        np.arange(SAMPLES),
        signature.noise_width,
    )
    return _answers(source, rows, noise)


def _own(call: Any, *rows: NDArray[Any]) -> Any:
    with torch.inference_mode():
        return call(*map(torch.from_numpy, map(np.array, rows)))


CONTINUOUS = (
    "--env", f"{HERE}:Road", "--method", "actor_mean", "--log-std", "actor_logstd",
)  # fmt: skip


def test_cleanrl_ppo_continuous(tmp_path: Path) -> None:
    agent = own_policies.agent(own_policies.ContinuousAgent, own_policies.Road)
    with torch.no_grad():
        agent.actor_logstd += torch.tensor([[-2.5, -2.0]])
    path = _saved(agent, tmp_path / "agent.pt")
    source = _served(tmp_path, "ContinuousAgent", "--checkpoint", path, *CONTINUOUS)
    signature = source.card.signature
    assert (signature.noise, source.card.distribution.std) == ("normal", "parameter")
    (rows,) = _rows(source)
    expected = _own(agent.actor_mean, rows).numpy().clip(-1, 1)
    np.testing.assert_allclose(_answers(source, [rows]), expected, atol=1e-5)
    samples = _samples(source)
    mean, std = _own(agent.actor_mean, rows[:1])[0].numpy(), np.exp([-2.5, -2.0])
    assert (np.abs(mean) + 4 * std < 1).all()  # so that no sample is clipped
    np.testing.assert_allclose(samples.mean(axis=0), mean, atol=4 * std.max() / SAMPLES**0.5)
    np.testing.assert_allclose(samples.std(axis=0), std, rtol=0.03)


def test_the_command_of_the_documents(tmp_path: Path) -> None:
    """Of Pendulum, whose action is one number: its deviation is no value of a critic."""
    agent = own_policies.agent(own_policies.ContinuousAgent, lambda: gymnasium.make("Pendulum-v1"))
    with torch.no_grad():
        agent.actor_logstd -= 1.5
        agent.actor_mean[-1].weight.zero_()
    path = _saved(agent, tmp_path / "agent.pt")
    page = (ROOT / "docs" / "IMPORT.md").read_text()
    told = re.search(r"ppo_continuous_action:Agent(.*) --version v0.3.0 \\\n(.*)", page)
    assert told is not None
    flags = shlex.split(f"{told[1]} {told[2]}".replace("agent.pt", path))
    source = _served(tmp_path, "ContinuousAgent", *flags)
    samples = _samples(source)
    assert np.abs(samples).max() < 2  # so that no sample is clipped
    np.testing.assert_allclose(samples.std(axis=0), np.exp(-1.5), rtol=0.03)
    twice = _import(tmp_path, "ContinuousAgent", *flags, "--second-output", "log-std")
    assert twice.exit_code == 1
    assert "--second-output: --log-std names" in twice.output


def test_cleanrl_ppo_discrete(tmp_path: Path) -> None:
    agent = own_policies.agent(own_policies.DiscreteAgent, own_policies.Lanes)
    # Compiled, under another name, and with what else a run keeps.
    weights = {f"_orig_mod.{name}": one for name, one in agent.state_dict().items()}
    kept = {"model_state_dict": weights, "best": np.float64(3), "args": Namespace(seed=1)}
    kept |= {"optimizer": {"state": {0: {"exp_avg": torch.zeros(8, 6)}}}, "global_step": 9}
    torch.save(kept, tmp_path / "agent.pt")
    given = ("--env", f"{HERE}:Lanes", "--method", "actor", "--checkpoint")
    source = _served(tmp_path, "DiscreteAgent", *given, str(tmp_path / "agent.pt"))
    assert source.card.signature.noise == "gumbel"
    (rows,) = _rows(source)
    logits = _own(agent.actor, rows)
    assert (_answers(source, [rows])[:, 0] == 1 + logits.argmax(dim=1).numpy()).all()
    expected = logits[0].softmax(dim=0).numpy()
    found = np.bincount(_samples(source)[:, 0] - 1, minlength=3) / SAMPLES
    np.testing.assert_allclose(found, expected, atol=4 * 0.5 / SAMPLES**0.5)


def test_cleanrl_sac(tmp_path: Path) -> None:
    """Mean and logarithm of the deviation come out of forward, and tanh makes the action."""
    actor = own_policies.agent(own_policies.SacActor, own_policies.Road)
    torch.save({"actor": actor.state_dict(), "log_alpha": torch.zeros(1)}, tmp_path / "sac.pt")
    given = ("--second-output", "log-std", "--squash", "tanh", "--checkpoint")
    env = ("--env", f"{HERE}:Road")
    source = _served(tmp_path, "SacActor", *env, *given, str(tmp_path / "sac.pt"))
    (rows,) = _rows(source)
    mean, log_std = _own(actor, rows)
    expected = (mean.tanh() * actor.action_scale + actor.action_bias).numpy()
    np.testing.assert_allclose(_answers(source, [rows]), expected, atol=1e-5)
    raw = np.arctanh(_samples(source).astype(np.float64).clip(-0.999999, 0.999999))
    deviation = log_std[0].exp().numpy()
    np.testing.assert_allclose(
        raw.mean(axis=0), mean[0], atol=float(4 * deviation.max() / SAMPLES**0.5)
    )
    np.testing.assert_allclose(raw.std(axis=0), deviation, rtol=0.05)


def test_cleanrl_td3_and_dqn(tmp_path: Path) -> None:
    actor = own_policies.agent(own_policies.Td3Actor, own_policies.Road)
    (tmp_path / "td3").mkdir()
    path = str(tmp_path / "td3.pt")
    critics = [own_policies.agent(own_policies.QNetwork, own_policies.Lanes) for _ in range(2)]
    torch.save(tuple(one.state_dict() for one in (actor, *critics)), path)  # as CleanRL does
    source = _served(tmp_path / "td3", "Td3Actor", "--env", f"{HERE}:Road", "--checkpoint", path)
    (rows,) = _rows(source)
    np.testing.assert_allclose(_answers(source, [rows]), _own(actor, rows).numpy(), atol=1e-5)
    assert source.card.signature.noise == "none"
    network = own_policies.agent(own_policies.QNetwork, own_policies.Lanes)
    path = _saved(network, tmp_path / "dqn.pt")
    given = ("--env", f"{HERE}:Lanes", "--distribution", "q-values", "--checkpoint", path)
    source = _served(tmp_path, "QNetwork", *given)
    assert source.card.signature.noise == "none"
    expected = 1 + _own(network, rows).argmax(dim=1).numpy()
    assert (_answers(source, [rows])[:, 0] == expected).all()


@pytest.mark.parametrize("served", ["mode", "mean"])
def test_a_policy_with_a_beta_head(served: str, tmp_path: Path) -> None:
    """As in carla-roach: alpha and beta are softplus + 1, and the action is scaled to its Box."""
    policy = own_policies.BetaPolicy(6, 2)
    torch.save({"policy_state_dict": policy.state_dict()}, tmp_path / "roach.pt")
    given = ("--arguments", "{inputs: 6, actions: 2}", "--distribution", "beta", "--beta", served)
    env = ("--env", f"{HERE}:Road", "--checkpoint", str(tmp_path / "roach.pt"))
    source = _served(tmp_path, "BetaPolicy", *given, *env)
    card = source.card
    assert (card.signature.noise, card.distribution.std) == ("none", "none")
    assert f"The action is the {served} of a Beta distribution." in card.description
    (rows,) = _rows(source)
    alpha, beta = (part.double().numpy() for part in _own(policy, rows))
    part = (alpha - 1) / (alpha + beta - 2) if served == "mode" else alpha / (alpha + beta)
    np.testing.assert_allclose(_answers(source, [rows]), 2 * part - 1, atol=2e-5)


def test_the_mode_of_a_beta_at_its_edges(tmp_path: Path) -> None:
    """The rule of carla-roach: an end where the density grows to it, else the mean."""
    given = ("--fields", "alpha:2,beta:2", "--layout", "steer,acceleration")
    source = _served(tmp_path, "betas", *given, "--distribution", "beta")
    cases = [  # alpha, beta and the mode of the first and of the second element
        ((3, 1.5, 2, 3.5), (2 / 3, 0.5 / 3)),
        ((0.5, 2, 2, 0.5), (0, 1)),
        ((1, 1, 3, 0.25), (0, 0.8)),
        ((2, 0.5, 1, 0.5), (1, 0.5)),
    ]
    rows = np.array([row for row, _ in cases], np.float32)
    with torch.inference_mode():
        made = source.policy.gaussian(torch.from_numpy(rows))[0].numpy()
    expected = 2 * np.array([mode for _, mode in cases]) - 1
    np.testing.assert_allclose(made, expected, atol=1e-6)


def _members(folder: Path, make: Any) -> tuple[list[nn.Module], list[str]]:
    members, given = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        members.append(make())
        given += ["--checkpoint", _saved(members[-1], folder / f"{seed}.pt")]
    return members, given


def test_an_ensemble_of_gaussians(tmp_path: Path) -> None:
    agents, given = _members(
        tmp_path, lambda: own_policies.agent(own_policies.ContinuousAgent, own_policies.Road, None)
    )
    for index, one in enumerate(agents):
        with torch.no_grad():
            one.actor_logstd += -3 + index / 4
        given[2 * index + 1] = _saved(one, tmp_path / f"{index}.pt")
    source = _served(tmp_path, "ContinuousAgent", *given, *CONTINUOUS)
    (rows,) = _rows(source)
    means = np.stack([_own(one.actor_mean, rows).double().numpy() for one in agents])
    np.testing.assert_allclose(_answers(source, [rows]), means.mean(0).clip(-1, 1), atol=1e-5)
    chosen = np.random.default_rng(0).integers(3, size=SAMPLES)
    stds = np.exp([-3, -2.75, -2.5])
    drawn_of_members = means[chosen, 0] + stds[chosen, None] * np.random.default_rng(1).normal(
        size=(SAMPLES, 2)
    )
    samples = _samples(source)
    spread = drawn_of_members.std(axis=0)
    np.testing.assert_allclose(
        samples.mean(0), drawn_of_members.mean(0), atol=float(6 * spread.max() / SAMPLES**0.5)
    )
    np.testing.assert_allclose(samples.std(axis=0), spread, rtol=0.04)


@pytest.mark.parametrize("squash", ["clip", "tanh"])
def test_an_ensemble_of_deterministic_policies(squash: str, tmp_path: Path) -> None:
    def make() -> nn.Module:
        policy = own_policies.Chained().mean
        with torch.no_grad():
            policy.weight.copy_(torch.randn(2, 6) * 2)
        return policy

    members, given = _members(tmp_path, make)
    space = ("--env", f"{HERE}:Road", "--squash", squash)
    source = _served(tmp_path, "linear", *given, *space)
    (rows,) = _rows(source)
    mean = np.mean([_own(one, rows).numpy() for one in members], axis=0)
    expected = np.tanh(mean) if squash == "tanh" else mean.clip(-1, 1)
    np.testing.assert_allclose(_answers(source, [rows]), expected, atol=1e-5)


def test_an_ensemble_of_categoricals(tmp_path: Path) -> None:
    agents, given = _members(
        tmp_path, lambda: own_policies.agent(own_policies.DiscreteAgent, own_policies.Lanes, None)
    )
    more = ("--env", f"{HERE}:Lanes", "--method", "actor")
    source = _served(tmp_path, "DiscreteAgent", *given, *more)
    (rows,) = _rows(source)
    expected = np.mean([_own(one.actor, rows).softmax(dim=1).numpy() for one in agents], axis=0)
    assert (_answers(source, [rows])[:, 0] == 1 + expected.argmax(axis=1)).all()
    found = np.bincount(_samples(source)[:, 0] - 1, minlength=3) / SAMPLES
    np.testing.assert_allclose(found, expected[0], atol=4 * 0.5 / SAMPLES**0.5)


def test_a_policy_of_images_in_a_dict(tmp_path: Path) -> None:
    """Camera with the channels last, a gear, and numbers: the network takes the channels first."""
    torch.manual_seed(3)
    policy = own_policies.Driver(own_policies.Camera().action_space)
    path = _saved(policy, tmp_path / "driver.pt")
    given = ("--env", f"{HERE}:Camera", "--channels-first", "--scale-images", "--checkpoint", path)
    source = _served(tmp_path, "Driver", *given)
    assert [leaf.raster for leaf in source.preprocessing.leaves] == [True, False, False, False]
    rows = _rows(source, 200)
    names = [leaf.name for leaf in source.preprocessing.leaves]
    batch = {name: torch.from_numpy(np.array(one)) for name, one in zip(names, rows, strict=True)}
    batch["camera"] = batch["camera"].permute(0, 3, 1, 2).float() / 255
    assert (batch["gear"].dtype, batch["lights"].dtype) == (torch.int64, torch.int8)
    with torch.inference_mode():
        logits = policy(batch)
    answers = _answers(source, rows)
    expected = [part.argmax(dim=1).numpy() for part in logits.split([3, 2], dim=1)]
    assert (answers == np.stack(expected, axis=1)).all()
    found = np.bincount(_samples(source)[:, 0], minlength=3) / SAMPLES
    first = logits[0, :3].softmax(dim=0)
    one = _rows(source, 1)
    assert (one[0][0] == rows[0][0]).all()
    np.testing.assert_allclose(found, first.numpy(), atol=4 * 0.5 / SAMPLES**0.5)


def test_a_module_that_gives_a_distribution(tmp_path: Path) -> None:
    given = ("--method", "trunk,distribution", "--fields", "a,b:3", "--arguments", "{inputs: 4}")
    torch.manual_seed(5)
    policy = own_policies.Distributed(4)
    path = _saved(policy, tmp_path / "own.pt")
    source = _served(tmp_path, "Distributed", *given, "--checkpoint", path)
    rows = _rows(source)
    flat = np.concatenate([rows[0].reshape(-1, 1), rows[1]], axis=1)
    made = _own(lambda one: policy.distribution(policy.trunk(one)).mean, flat)
    np.testing.assert_allclose(_answers(source, rows), made.numpy(), rtol=1e-4, atol=1e-4)
    assert source.card.distribution.std == "parameter"


def test_the_deviation_is_of_what_the_last_method_takes(tmp_path: Path) -> None:
    policy = own_policies.Chained()
    path = _saved(policy, tmp_path / "own.pt")
    given = ("--method", "body,mean", "--log-std", "log_std", "--fields", "vector:6")
    source = _served(tmp_path, "Chained", *given, "--checkpoint", path)
    rows = torch.randn(50, 6)
    with torch.inference_mode():
        _, std = source.policy.gaussian(rows)
        expected = policy.log_std(policy.body(rows)).exp()
    torch.testing.assert_close(std, expected)


PEDALS = ("--layout", "steer,acceleration")
CHOICE, BITS = (
    "{observation_space: {type: Box, dtype: float32, shape: [4], low: -1, high: 1}, "
    f"action_space: {space}}}"
    for space in ("{type: Discrete, n: 3}", "{type: MultiBinary, n: 3}")
)
VECTOR = ("--fields", "vector:4")
OBJECTS = {
    "normal_object": ((*VECTOR, *PEDALS), ("normal", "parameter")),
    "beta_object": ((*VECTOR, *PEDALS), ("none", "none")),
    "choice_object": (("--spec", CHOICE), ("gumbel", "none")),
    "bits_object": (("--spec", BITS), ("logistic", "none")),
}


@pytest.mark.parametrize("module", OBJECTS)
def test_an_object_decides_the_distribution(module: str, tmp_path: Path) -> None:
    given, expected = OBJECTS[module]
    source = _served(tmp_path, module, *given)
    assert (source.card.signature.noise, source.card.distribution.std) == expected
    if module == "beta_object":
        rows = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
        alpha, beta = np.exp(rows[:, :2].astype(float)), np.exp(rows[:, 2:].astype(float))
        both = (alpha > 1) & (beta > 1)
        mode = (alpha - 1) / (alpha + beta - 2)
        with torch.inference_mode():
            answers = source.policy.gaussian(torch.from_numpy(rows))[0].numpy()
        assert both.any()
        np.testing.assert_allclose(answers[both], 2 * mode[both] - 1, rtol=0, atol=1e-4)


@pytest.mark.parametrize("module", ["sizes", "threshold"])
def test_what_can_be_traced(module: str, tmp_path: Path) -> None:
    _served(tmp_path, module, *VECTOR)


def test_a_module_in_the_working_directory(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "my_own_policy.py").write_text(
        "import torch\nprint('loading')\npolicy = torch.nn.Linear(4, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    given = ("--fields", "vector:4", "--layout", "throttle,brake,steer", "--json")
    result = _import(tmp_path, "my_own_policy:policy", *given)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["model_type"] == "torchscript"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("checkpoints")
    agent = own_policies.agent(own_policies.DiscreteAgent, own_policies.Lanes)
    weights = agent.state_dict()
    contents: dict[str, Any] = {
        "good": weights,
        "other": own_policies.Td3Actor(own_policies.vector(own_policies.Road)).state_dict(),
        "few": {name: one for name, one in weights.items() if "critic" not in name},
        "many": {**weights, "actor.9.weight": torch.zeros(1)},
        "wide": {name: torch.zeros(3, *one.shape) for name, one in weights.items()},
        "two": {"online": weights, "target": weights},
        "extra": {
            "model": {**weights, "value.weight": torch.zeros(1)},
            "old_model": {name: one + 1 for name, one in weights.items()},
        },
        "misfit": {"policy": {"actor.0.weight": torch.zeros(2)}, "old": weights},
        "whole numbers": {name: one.to(torch.int8) for name, one in weights.items()},
        "normalised": {
            "actor_critic": weights,
            "critic_norm": {"running_mean": torch.ones(2), "running_var": torch.ones(2)},
            "obs_norm_state_dict": {"_mean": torch.ones(6), "count": torch.tensor(9)},
        },
        "counted": {"net": weights, "n": {"running_mean": torch.ones(6), "count": 3}},
        "whole": agent,
        "empty": {"step": 3},
    }
    for name, content in contents.items():
        torch.save(content, folder / name)
    return {name: str(folder / name) for name in contents}


LANES = ("--env", f"{HERE}:Lanes")
GOOD = (*LANES, "--method", "actor")
WRONG: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "no colon": ("agents/ppo.py", "good", GOOD, "must be module:attribute as Python imports it"),
    "no module": ("nobody.here:Agent", "good", GOOD, "nobody.here can't be imported: ModuleNotF"),
    "no attribute": (f"{HERE}:Nobody", "good", GOOD, "own_policies has no Nobody"),
    "no class": (f"{HERE}:NUMBER", "good", GOOD, "it is a int, no module and no function"),
    "no weights": ("DiscreteAgent", "", GOOD, "a class has no trained weights: give them with"),
    "another class": ("DiscreteAgent", "other", GOOD, "it has no weights of this module: it hol"),
    "few": ("DiscreteAgent", "few", GOOD, "not this module's: missing: critic.0.weight, critic"),
    "many": ("DiscreteAgent", "many", GOOD, "not this module's: too many: actor.9.weight"),
    "wide": ("DiscreteAgent", "wide", GOOD, "of another shape: critic.0.weight 3 × 8 × 6 inst"),
    "two": ("DiscreteAgent", "two", GOOD, "several weights in it fit: say which with --key: on"),
    "extra": ("DiscreteAgent", "extra", GOOD, "old_model in it fit, and model, which .*value.weig"),
    "misfit": ("DiscreteAgent", "misfit", GOOD, "weights old in it fit, and policy, .* with --key"),
    "whole numbers": ("DiscreteAgent", "whole numbers", GOOD, "whole numbers in place of floats"),
    "whole": ("DiscreteAgent", "whole", GOOD, "it holds objects of tests.converters.own_policie"),
    "empty": ("DiscreteAgent", "empty", GOOD, "no weights in it: save them with torch.save"),
    "no key": ("DiscreteAgent", "two", (*GOOD, "--key", "third"), "under --key third"),
    "no env": ("DiscreteAgent", "good", ("--method", "actor"), "say it with --fields, e.g."),
    "unknown env": ("DiscreteAgent", "good", ("--env", "Nothing-v3"), "--env Nothing-v3: NameNotF"),
    "no env class": ("DiscreteAgent", "good", ("--env", f"{HERE}:NUMBER"), "it gives a int, no en"),
    "a Dict of actions": (
        "DiscreteAgent", "good", ("--env", f"{HERE}:Parts"), "its action is a Dict, and a policy's"
    ),
    "no arguments": ("BetaPolicy", "good", LANES, "it can't be made: TypeError: BetaPolicy.__in"),
    "arguments": ("DiscreteAgent", "good", (*GOOD, "--arguments", "[1]"), "names with values"),
    "no method": ("DiscreteAgent", "good", (*LANES, "--method", "policy"), "has no policy; it ha"),
    "no forward": ("DiscreteAgent", "good", LANES, "--method what is called instead; its"),
    "another object": (
        "normal_object", "", (*VECTOR, *PEDALS, "--distribution", "beta"),
        "--distribution beta: the module gives a torch.distributions.Normal: leave it away",
    ),
    "second of an object": (
        "normal_object", "", (*VECTOR, "--second-output", "log-std"),
        "--second-output log-std: the module gives a torch.distributions.Normal: leave",
    ),
    "object of another space": (
        "bits_object", "", ("--spec", CHOICE), "Bernoulli, and the action is a Discrete: return"
    ),
    "beta object unbounded": ("beta_object", "", VECTOR, "the action needs finite bounds"),
    "sampled": ("noisy", "", ("--fields", "vector:6"), "it gives another action each time for t"),
    "chosen": ("DiscreteAgent", "good", (*LANES, "--method", "act"), "it gives torch.int64"),
    "memory": ("Remembers", "", ("--fields", "vector:6"), "it has a memory .LSTM.: let it take"),
    "wrong width": ("noisy", "", ("--fields", "vector:5"), "it can't be called: RuntimeError: mat"),
    "no image": ("DiscreteAgent", "good", (*GOOD, "--scale-images"), "has no image for it"),
    "distribution": (
        "DiscreteAgent", "good", (*GOOD, "--distribution", "beta"),
        "--distribution beta: the action is a Discrete: take categorical or q-values",
    ),
    "beta alone": ("betas", "", ("--fields", "vector:4", "--beta", "mean"), "it is for --distrib"),
    "beta unbounded": (
        "betas", "", ("--fields", "vector:4", "--distribution", "beta"), "needs finite bounds"
    ),
    "beta negative": (
        "negative", "",
        ("--fields", "vector:4", "--distribution", "beta", "--layout", "steer,acceleration"),
        "both must be positive",
    ),
    "branches": ("branches", "", VECTOR, r"s.py, line \d+: Python decides .* torch.where"),
    "corner": ("cornered", "", ("--env", f"{HERE}:Road"), "differ from the module's own .* by 1$"),
    "numpy": ("filled", "", VECTOR, r"own_policies.py, line \d+: Python decides .* torch instead"),
    "counting": ("counting", "", VECTOR, "changes its attribute count whenever it is called"),
    "raises": ("fussy", "", ("--fields", "vector:4"), "can't be called: AssertionError: out of ro"),
    "scaled integers": (
        "Driver", "good", ("--env", f"{HERE}:Camera", "--preprocessor", own_policies.__file__),
        "it makes other numbers of the observation's Discrete",
    ),
    "spec and env": (
        "DiscreteAgent", "good", (*GOOD, "--spec", "{action_space: {}}"), "would: give one of them"
    ),
    "env arguments": ("noisy", "", ("--env-arguments", "{a: 1}"), "for the environment that --env"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name: str, files: dict[str, str], tmp_path: Path) -> None:
    module, checkpoint, given, message = WRONG[name]
    weights = ("--checkpoint", files[checkpoint]) if checkpoint else ()
    module = module if ":" in module or "/" in module else f"{HERE}:{module}"
    arguments = ["import-torch", module, "--version", "v1.0.0", *weights, *given]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        result = CliRunner().invoke(
            cli, [*arguments, "--artifacts", str(tmp_path / "a")], standalone_mode=False
        )
    told = str(result.exception)
    assert type(result.exception).__name__ == "CommandError", (told, result.output)
    assert "\n" not in told
    assert re.search(message, told), told
    assert not list((tmp_path / "a").glob("v*"))


def test_the_command_knows_all_distributions() -> None:
    option = next(one for one in import_torch.params if one.name == "distribution")
    assert isinstance(option.type, click.Choice)
    assert set(option.type.choices) == set(DISTRIBUTIONS)


def test_key_says_which_weights(files: dict[str, str], tmp_path: Path) -> None:
    _served(tmp_path, "DiscreteAgent", "--checkpoint", files["two"], "--key", "target", *GOOD)

    _served(
        tmp_path / "old",
        "DiscreteAgent",
        "--checkpoint",
        files["extra"],
        "--key",
        "old_model",
        *GOOD,
    )


def test_it_tells_which_weights_it_took(files: dict[str, str], tmp_path: Path) -> None:
    def notes(name: str) -> str:
        given = ("--checkpoint", files[name], *GOOD)
        result = _import(tmp_path / name, "DiscreteAgent", *given)
        assert result.exit_code == 0, result.output
        return result.output

    assert "note:" not in notes("good")
    told = notes("normalised")
    assert "normalised: the weights are those named actor_critic\n" in told
    assert "it holds obs_norm_state_dict, which is not in the policy: give it with --prepr" in told
    assert "critic_norm" not in told
    assert "it holds n.running_mean, which is not in the policy" in notes("counted")


def test_sampling_a_beta_policy_is_refused(tmp_path: Path) -> None:
    given = ("--fields", "vector:4", "--layout", "steer,acceleration")
    source = _served(tmp_path, "betas", *given, "--distribution", "beta")
    assert source.card.signature.interface()["sampled"] is False


def test_errors_of_the_library_name_the_module(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="own_policies:noisy: it gives another action"):
        torch_module.import_torch(f"{HERE}:noisy", "v1.0.0", tmp_path, fields=["vector:6"])
