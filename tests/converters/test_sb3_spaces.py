"""A policy of any signature acts, once imported, as Stable-Baselines3 has it act."""

from __future__ import annotations

import pickle as python_pickle
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import httpx
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from converters.artifact import artifact, pickles
from converters.artifact.artifact import Artifact
from converters.artifact.card import ArtifactError
from converters.export import parity
from converters.export.export import export
from converters.importers.sb3 import import_sb3
from policy_spec.noise import NoiseSource
from tests.converters.random_env import Random
from tests.converters.sb3_actions import actor_and_images, distribution
from tests.converters.test_sb3_zip import FOLDER, GAUSSIAN, SAVED, observations, saved_policy
from tests.policy_spec.controls import numbers
from tests.stack import running_stack

DRAWS = 20_000
VECTOR, WHEEL = spaces.Box(-1, 1, (4,)), spaces.Box(-1, 1, (2,))
SEEING = ("camera", "frames", "view")
SAMPLED = [
    name
    for name in SAVED
    if (name in GAUSSIAN or name.startswith("a2c"))
    and (name.split("-")[1] not in SEEING or name in ("ppo-camera-np2", "sac-view-np2"))
]


def statistics(name: str) -> Any:
    path = FOLDER / f"{name}.pkl"
    return path if path.exists() else "none"


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def get(name: str) -> Artifact:
        folder = tmp_path_factory.mktemp(name)
        flat = isinstance(saved_policy(name).observation_space, spaces.Box)
        return artifact.load(
            import_sb3(
                FOLDER / f"{name}.zip",
                "v1.0.0",
                folder,
                vecnormalize=statistics(name),
                fields=["vector"] if flat else None,
            )
        )

    return get


def inputs(source: Artifact, batch: Any) -> Any:
    """Features, zeros for noise, and rasters of a batch, whose keys are in the card's order."""
    return parity.inputs(source, tuple(batch.values()) if isinstance(batch, dict) else (batch,))


def act(source: Artifact, *given: Any) -> Any:
    with torch.inference_mode():
        return source.policy(*map(torch.from_numpy, given)).numpy()


def normalised(name: str, batch: Any) -> Any:
    """The batch as the policy saw it, by the formula of `VecNormalize.normalize_obs`."""
    path = statistics(name)
    record: Any = None if path == "none" else pickles.load(path.read_bytes())
    if record is None or not record.norm_obs:
        return batch

    def one(values: Any, told: Any) -> Any:
        scaled = (values - told.mean.values) / np.sqrt(told.var.values + record.epsilon)
        return np.clip(scaled, -record.clip_obs, record.clip_obs).astype(np.float32)

    if not isinstance(batch, dict):
        return one(batch, record.obs_rms)
    return batch | {key: one(batch[key], told) for key, told in record.obs_rms.items()}


@pytest.mark.parametrize("name", SAVED)
def test_acts_as_predict(name: str, imported: Any) -> None:
    source, saved = imported(name), saved_policy(name)
    batch = observations(actor_and_images(saved)[1].space, 1000)
    expected, _ = saved.policy.predict(normalised(name, batch), deterministic=True)
    got = act(source, *inputs(source, batch))
    np.testing.assert_allclose(got, expected.reshape(1000, -1), rtol=0, atol=2e-5)


def squashed(saved: Any, raw: Any) -> Any:
    box = saved.action_space
    if saved.algorithm in ("SAC", "TQC", "CrossQ") or saved.policy.squash_output:
        return box.low + 0.5 * (np.tanh(raw) + 1) * (box.high - box.low)
    return np.clip(raw, box.low, box.high)


def moments(saved: Any, told: Any) -> tuple[Any, Any]:
    """Mean and standard deviation of an action, or of each value's indicator, by the formula."""
    if isinstance(told, list):  # of MultiDiscrete
        chance = np.concatenate([one.probs[0].numpy() for one in told])
    elif isinstance(saved.action_space, spaces.Box):
        z = np.linspace(-8, 8, 4001)[:, None]
        weight = np.exp(-0.5 * z**2) / np.exp(-0.5 * z**2).sum()
        action = squashed(saved, told.mean[0].numpy() + z * told.stddev[0].numpy())
        mean = (weight * action).sum(0)
        return mean, np.sqrt((weight * (action - mean) ** 2).sum(0))
    else:
        chance = told.probs[0].numpy()
    return chance, np.sqrt(chance * (1 - chance))


@pytest.mark.parametrize("name", SAMPLED)
def test_samples_as_the_distribution_says(name: str, imported: Any) -> None:
    """For features near zero, where no value is certain."""
    source, saved = imported(name), saved_policy(name)
    batch = observations(actor_and_images(saved)[1].space, 1)
    parts = batch if isinstance(batch, dict) else {"": batch}
    small = {k: v / np.float32(1e4) if v.dtype == np.float32 else v for k, v in parts.items()}
    rows = tuple(small.values())
    vectors = [
        one for leaf, one in zip(source.preprocessing.leaves, rows, strict=True) if not leaf.raster
    ]
    plain = np.empty((1, 0), np.float32)  # without statistics
    if vectors:
        plain = source.preprocessing.flatten(vectors).astype(np.float32)
    plain, *rasters = (np.repeat(one, DRAWS, 0) for one in (plain, *parity.rasters(source, rows)))
    kind, width, seeds = source.preprocessing.kind, source.preprocessing.noise, np.arange(DRAWS)
    noise = NoiseSource(kind).draw(np.zeros(DRAWS, bool), seeds, seeds * 0, width)
    actions = act(source, plain, noise, *rasters)
    if isinstance(saved.action_space, spaces.MultiDiscrete):
        columns = zip(saved.action_space.nvec, actions.T, strict=True)
        actions = np.concatenate([np.eye(size)[column] for size, column in columns], axis=1)
    mean, spread = moments(
        saved, distribution(saved, small if isinstance(batch, dict) else small[""])
    )
    assert (spread > 0.005).all()
    np.testing.assert_array_less(np.abs(actions.mean(0) - mean), 4.5 * spread / DRAWS**0.5)
    np.testing.assert_allclose(actions.std(0), spread, rtol=0.04)


def test_a_q_network_is_not_sampled(imported: Any) -> None:
    source = imported("dqn-discrete-np2")
    assert source.card.signature.noise == "none"
    assert source.card.model_dump(exclude_none=True)["distribution"]["noise"] == "none"


@pytest.mark.parametrize("name", ["qrdqn-discrete-np1", "ars-mlp-np1", "ars-discrete-np1"])
def test_others_that_are_not_sampled(name: str, imported: Any) -> None:
    assert imported(name).card.signature.noise == "none"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ppo-box-np2", "pytorch"),
        ("sac-box-np2", "pytorch"),
        ("ppo-sde-np2", "torchscript"),
        ("sac-sde-np2", "torchscript"),
        ("dqn-discrete-np2", "pytorch"),
        ("dqn-multibinary-np2", "torchscript"),
        ("qrdqn-discrete-np1", "pytorch"),
        ("tqc-dict-np1", "pytorch"),
        ("crossq-box-np1", "torchscript"),
        ("ars-mlp-np1", "pytorch"),
        ("ars-linear-np1", "torchscript"),
    ],
)
def test_a_plain_perceptron_stays_weights(name: str, kind: str, imported: Any) -> None:
    assert imported(name).card.model_type == kind


def test_cards_are_of_the_new_form(imported: Any) -> None:
    card = imported("ppo-dict-np2").card.model_dump(exclude_none=True)
    assert not {"sensors", "action", "input_shape", "output_shape", "control"} & set(card)
    parts = card["observation_space"]["subspaces"]
    assert list(parts) == ["zebra", "gear", "lamps", "modes", "area"]
    assert parts["area"]["low"] == "-inf"
    assert card["action_space"]["high"] == [1.0, 3.0]
    steps = imported("ppo-dict-np2").preprocessing.steps
    assert [step[2] for step in steps] == [(0, 6)] * 3 + [(18, 20)] * 3


@pytest.mark.parametrize(
    "name",
    ["ppo-dict-np2", "ppo-binary-np2", "dqn-multibinary-np2", "sac-sde-np2"]
    + ["ppo-camera-np2", "dqn-frames-np2", "ppo-view-np2", "sac-view-sb16", "crossq-box-np1"],
)
def test_exported(name: str, imported: Any, tmp_path: Path) -> None:
    """Every format acts as the artifact, or the export fails."""
    flat = isinstance(saved_policy(name).observation_space, spaces.Box)
    folder = import_sb3(
        FOLDER / f"{name}.zip",
        "v1.0.0",
        tmp_path / "artifacts",
        vecnormalize=statistics(name),
        fields=["vector"] if flat else None,
    )
    assert export([folder], tmp_path / "repository").active == "v1.0.0"


def train(folder: Path, kind: Any, observation: Any, action: Any, **options: Any) -> Path:
    env: Any = DummyVecEnv([lambda: Random(observation, action)])
    if options.pop("normalised", False):
        env = VecNormalize(env)
    policy = "MultiInputPolicy" if isinstance(observation, spaces.Dict) else "MlpPolicy"
    model = kind(policy, env, device="cpu", seed=1, **options)
    model.learn(20)
    model.save(folder / "policy.zip")
    if isinstance(env, VecNormalize):
        env.save(str(folder / "vecnormalize.pkl"))
    return folder / "policy.zip"


def test_fields_name_a_vector(tmp_path: Path) -> None:
    low = np.array([0, -2, -np.inf, -np.inf, 0], np.float32)
    high = np.array([30, 2, np.inf, np.inf, 0.1], np.float32)
    path = train(tmp_path, A2C, spaces.Box(low, high), spaces.Discrete(3))
    folder = import_sb3(path, "v1.0.0", tmp_path, fields=["v", "angle:1", "rays:2", "brake:1"])
    space = artifact.load(folder).card.observation_space
    assert space is not None
    box = {"type": "Box", "dtype": "float32"}
    assert space["subspaces"] == {
        "v": box | {"shape": [], "low": 0.0, "high": 30.0},
        "angle": box | {"shape": [1], "low": -2.0, "high": 2.0},
        "rays": box | {"shape": [2], "low": "-inf", "high": "inf"},
        "brake": box | {"shape": [1], "low": 0.0, "high": 0.1},
    }


@pytest.mark.parametrize("bound", [1.0, 5000.0, np.inf])
def test_the_driving_form_is_always_the_same(bound: float, tmp_path: Path) -> None:
    path = train(tmp_path, A2C, spaces.Box(-bound, bound, (6,)), spaces.Box(-1, 1, (2,)))
    said: list[str] = []
    folder = import_sb3(
        path,
        "v1.0.0",
        tmp_path,
        fields=["speed", "steering", "sensors"],
        layout=["steer", "acceleration"],
        tell=said.append,
    )
    signature = artifact.load(folder).card.signature
    assert signature.is_driving_form
    assert signature.sensors == 4
    own = [line for line in said if line.startswith("speed: its range is that of the policies")]
    assert len(own) == (bound != np.inf)


def test_bounds_that_do_not_hold_are_left_away(tmp_path: Path) -> None:
    space = spaces.Box(-1, 1, (3,))
    space.sample = lambda *_: np.full(3, 40, np.float32)  # type: ignore[method-assign]
    said: list[str] = []
    path = train(tmp_path, A2C, space, spaces.Discrete(2))
    folder = import_sb3(path, "v1.0.0", tmp_path, fields=["vector"], tell=said.append)
    assert said == [
        "the policy saw an observation outside of its own space, whose bounds are left away"
    ]
    assert artifact.load(folder).card.observation_space["high"] == "inf"  # type: ignore[index]


PEDALS = ["throttle", "brake", "steer"]


def test_a_start_is_not_heeded(tmp_path: Path) -> None:
    """As in training: the environment got 0 to 2."""
    path = train(tmp_path, A2C, spaces.Box(-1, 1, (2,)), spaces.Discrete(3, start=4))
    said: list[str] = []
    folder = import_sb3(path, "v1.0.0", tmp_path, fields=["vector"], tell=said.append)
    assert "does not heed the start" in said[0]
    assert artifact.load(folder).card.action_space["start"] == 0  # type: ignore[index]


TABLE = [{"throttle": 0.5, "steer": -1}, {"throttle": 1}, {"acceleration": -1, "reverse": True}]


@pytest.mark.parametrize(
    ("kind", "action", "given"),
    [
        (A2C, spaces.Discrete(3), {"table": TABLE}),
        (DQN, spaces.Discrete(3), {"table": TABLE, "repeat": 4}),
        (
            A2C,
            spaces.MultiDiscrete([3, 2]),
            {"axes": {"steer": [-0.5, 0, 0.5], "acceleration": [-1, 1]}},
        ),
        (A2C, spaces.Box(-1, 1, (3,)), {"layout": PEDALS, "scale": "linear"}),
        (A2C, spaces.Box(-1, 1, (3,)), {"layout": PEDALS, "scale": "clip"}),
        (A2C, spaces.Box(np.float32([-1, -5]), np.float32([1, 3])),
         {"layout": ["steer", "acceleration"], "scale": "linear"}),
    ],
)  # fmt: skip
def test_controls(kind: Any, action: Any, given: dict[str, Any], tmp_path: Path) -> None:
    path = train(tmp_path, kind, spaces.Box(-5, 5, (4,)), action)
    source = artifact.load(
        import_sb3(path, "v1.0.0", tmp_path, fields=["vector"], vecnormalize="none", **given)
    )
    batch = observations(spaces.Box(-5, 5, (4,)), 200)
    expected, _ = kind.load(path, device="cpu").predict(batch, deterministic=True)
    control = source.card.signature.control
    assert control is not None
    with torch.inference_mode():
        got = source.policy(*map(torch.from_numpy, inputs(source, batch)))
    made, own = (part.numpy() for part in got)
    np.testing.assert_allclose(own, expected.reshape(200, -1), atol=1e-5)
    np.testing.assert_allclose(made, [numbers(control, row.tolist()) for row in own], atol=1e-6)
    assert source.card.signature.repeat == given.get("repeat", 1)


@pytest.mark.parametrize("seed", [1, 2, 8])
def test_rounding_is_no_reason_to_refuse(seed: int, tmp_path: Path) -> None:
    """These policies' own float32 is off by more than 1e-5, as numbers up to 1000 are rounded."""
    env = gymnasium.Env[Any, Any]()
    env.observation_space, env.action_space = spaces.Box(-1000, 1000, (7,)), WHEEL
    SAC("MlpPolicy", env, seed=seed, device="cpu", buffer_size=10).save(tmp_path / "policy.zip")
    given: Any = {"fields": ["vector"], "layout": ["steer", "acceleration"]}
    given["vecnormalize"] = "none"
    assert import_sb3(tmp_path / "policy.zip", "v1.0.0", tmp_path, **given).is_dir()


def test_an_expert_of_a_simulator(tmp_path: Path) -> None:
    """275 inputs without bounds, two layers of 256 tanh."""
    env = gymnasium.Env[Any, Any]()
    env.observation_space, env.action_space = spaces.Box(-np.inf, np.inf, (275,)), WHEEL
    layers = {"net_arch": [256, 256], "activation_fn": torch.nn.Tanh}
    PPO("MlpPolicy", env, seed=3, device="cpu", policy_kwargs=layers).save(tmp_path / "policy.zip")
    np.save(tmp_path / "seen.npy", 1000 * np.random.RandomState(0).normal(size=(64, 275)))
    given: Any = {"layout": ["steer", "acceleration"], "observations": tmp_path / "seen.npy"}
    given |= {"fields": ["state"], "vecnormalize": "none"}
    folder = import_sb3(tmp_path / "policy.zip", "v1.0.0", tmp_path, **given)
    assert export([folder], tmp_path / "repository").active == "v1.0.0"


def test_without_a_mapping_there_is_no_control(tmp_path: Path) -> None:
    """Three elements are no reason to guess that they are pedals."""
    path = train(tmp_path, A2C, spaces.Box(-1, 1, (7,)), spaces.Box(-1, 1, (3,)))
    folder = import_sb3(path, "v1.0.0", tmp_path, fields=["speed", "steering", "sensors"])
    assert artifact.load(folder).card.signature.control is None


CASES: list[tuple[Any, Any, dict[str, Any], str]] = [
    (VECTOR, WHEEL, {}, "is a vector of 4 numbers: say what they are with --fields"),
    (VECTOR, WHEEL, {"fields": ["a:1", "b:2"]}, "--fields a:1,b:2 has 3 numbers, and an observ"),
    (VECTOR, WHEEL, {"fields": ["a", "b:9"]}, "has 10 numbers, and an observation of it 4"),
    (VECTOR, WHEEL, {"fields": ["a:0", "b"]}, "'a:0' must be NAME or NAME:WIDTH"),
    (VECTOR, WHEEL, {"fields": ["a:1", "a:3"]}, "each name must be there once"),
    (VECTOR, WHEEL, {"fields": ["\udcff", "b"]}, "is no valid Unicode"),
    (VECTOR, WHEEL, {"fields": ["vector"], "table": [{}]}, "--table: .* a Box: use --layout"),
    (VECTOR, WHEEL, {"fields": ["vector"], "scale": "clip"}, "--scale: it is for the elements"),
    (VECTOR, WHEEL, {"fields": ["vector"], "layout": ["steer", "steer"]}, "--layout: control.la"),
    (VECTOR, WHEEL, {"fields": ["vector"], "table": [], "axes": {}}, "has one control"),
    (VECTOR, WHEEL, {"fields": ["vector"], "repeat": 0}, "repeat: must be an integer from 1"),
    (VECTOR, WHEEL, {"fields": ["vector"], "description": "\udcff"}, "must be plain and finite"),
    (spaces.Dict({"a": VECTOR}), WHEEL, {"fields": ["a"]}, "a Dict with names of its own: leave"),
    (spaces.Discrete(3), WHEEL, {"fields": ["a"]}, "its observation is a Discrete: leave"),
    (spaces.Discrete(3), spaces.Discrete(2), {"layout": ["steer"]}, "a Discrete: use --table"),
    (spaces.Discrete(3), spaces.Discrete(2), {"table": [{}]}, "--table: control.table: must be a"),
    (spaces.Discrete(3), spaces.MultiDiscrete([2]), {"axes": {"steer": [1]}}, "--axes: control.a"),
    (spaces.Discrete(3), spaces.MultiBinary(2), {"table": [{}]}, "it has no control"),
    (VECTOR, WHEEL, {"image_layout": "hwc"}, "--image-layout: its observation has no image"),
]


@pytest.mark.parametrize(("observation", "action", "given", "message"), CASES)
def test_refused_in_one_sentence(
    observation: Any, action: Any, given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "policy.zip"
    env = type("Empty", (gymnasium.Env,), {})()
    env.observation_space, env.action_space = observation, action
    policy = "MultiInputPolicy" if isinstance(observation, spaces.Dict) else "MlpPolicy"
    A2C(policy, env, device="cpu").save(path)
    given = given | {"vecnormalize": "none"}
    with pytest.raises(ArtifactError, match=message) as told:
        import_sb3(path, "v1.0.0", tmp_path / "artifacts", **given)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "artifacts" / "v1.0.0").exists()


@pytest.mark.live
def test_normalised_parts_of_a_dict(tmp_path: Path) -> None:
    """From the environment to the gateway's answer, statistics and all."""
    space = spaces.Dict({"rays": spaces.Box(0, 90, (5,)), "speed": spaces.Box(-3, 40, (1,))})
    path = train(tmp_path, PPO, space, WHEEL, normalised=True, n_steps=8, batch_size=8)
    given: dict[str, Any] = {"layout": ["steer", "acceleration"]}
    with pytest.raises(ArtifactError, match="--vecnormalize FILE"):
        import_sb3(path, "v1.0.0", tmp_path / "artifacts", **given)
    given["vecnormalize"] = tmp_path / "vecnormalize.pkl"
    folder = import_sb3(path, "v1.0.0", tmp_path / "artifacts", **given)
    export([folder], tmp_path / "repository", ["onnx"])
    wrapper = python_pickle.loads(given["vecnormalize"].read_bytes())
    batch = observations(space, 200)
    normal = wrapper.normalize_obs(batch)
    expected, _ = PPO.load(path, device="cpu").predict(normal, deterministic=True)
    rows = [{key: values[row].tolist() for key, values in batch.items()} for row in range(200)]
    body = {"observations": rows, "deterministic": True, "policyActions": True}
    with running_stack(MODEL_REPOSITORY=str(tmp_path / "repository")) as stack:
        answer = httpx.post(f"{stack.gateway_url}/predict", json=body, timeout=20).json()
    np.testing.assert_allclose(answer["policyActions"], expected, rtol=0, atol=1e-5)
    steers = [one["steer"] for one in answer["actions"]]
    np.testing.assert_allclose(steers, expected[:, 0], rtol=0, atol=1e-5)
