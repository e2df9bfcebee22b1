"""What Stable-Baselines3 trained acts the same once imported, exported and served by Triton."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from converters.artifact import artifact
from converters.artifact.card import ArtifactError
from converters.export import parity
from converters.export.export import export
from converters.importers.sb3 import import_sb3
from examples.track import TrackEnv
from tests.converters.conftest import edges
from tests.converters.policies import predict, train
from tests.stack import Stack, running_stack

CASES = {
    f"v1.{number}.0": case
    for number, case in enumerate(
        itertools.product(("PPO", "A2C", "SAC", "TD3"), (2, 3), (False, True))
    )
}
DRIVING = ("speed", "steering", "sensors")
CONTROLS: dict[int, dict[str, Any]] = {
    2: {"layout": ["steer", "acceleration"], "scale": "clip"},
    3: {"layout": ["throttle", "brake", "steer"]},
}
SERVED = ("v1.1.0", "v1.2.0", "v1.4.0", "v1.7.0", "v1.8.0", "v1.11.0", "v1.13.0", "v1.14.0")
"""Each algorithm with two and with three actions, once normalised and once not."""


def observations() -> Any:
    env = TrackEnv(max_steps=60)
    env.action_space.seed(5)
    seen = [env.reset(seed=5)[0]]
    seen += [env.step(env.action_space.sample())[0] for _ in range(40)]
    return np.concatenate([np.array(seen, np.float32), edges()])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every case trained and imported; the models by version, and the folder of the artifacts."""
    root = tmp_path_factory.mktemp("sb3")
    models: dict[str, Any] = {"artifacts": root / "artifacts"}
    for version, (algorithm, actions, normalised) in CASES.items():
        model, policy, statistics = train(
            root / version, algorithm, actions=actions, normalised=normalised
        )
        import_sb3(
            policy,
            version,
            root / "artifacts",
            vecnormalize=statistics,
            fields=DRIVING,
            **CONTROLS[actions],
        )
        models[version] = model
    return models


@pytest.fixture(scope="module")
def served(trained: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    target = tmp_path_factory.mktemp("repository") / "model_repository"
    export([trained["artifacts"] / version for version in SERVED], target, ["onnx"])
    with running_stack(MODEL_REPOSITORY=str(target), SERVE_VERSIONS=",".join(SERVED)) as stack:
        yield stack


@pytest.mark.parametrize("version", CASES, ids=lambda version: str(CASES[version]))
def test_imported_acts_as_predict(trained: dict[str, Any], version: str) -> None:
    _, actions, normalised = CASES[version]
    source = artifact.load(trained["artifacts"] / version)
    assert len(source.preprocessing.steps) == (3 if normalised else 0)
    features = source.preprocessing.features(observations())
    noise = np.zeros((len(features), actions), np.float32)
    expected = predict(trained[version], observations(), actions)
    np.testing.assert_allclose(
        parity.actions(source, features, noise), expected, rtol=0, atol=parity.TOLERANCE
    )


@pytest.mark.live
@pytest.mark.parametrize("version", SERVED, ids=lambda version: str(CASES[version]))
def test_served_acts_as_predict(trained: dict[str, Any], served: Stack, version: str) -> None:
    """Through the gateway, two hops and JSON away from the library."""
    _, actions, _ = CASES[version]
    seen = observations()
    body = {
        "observations": [
            {"speed": row[0], "steering": row[1], "sensors": row[2:]} for row in seen.tolist()
        ],
        "deterministic": True,
        "version": version,
    }
    answer = httpx.post(f"{served.gateway_url}/predict", json=body, timeout=10).json()
    assert answer["version"] == version
    got = [[one["throttle"], one["brake"], one["steer"]] for one in answer["actions"]]
    expected = predict(trained[version], seen, actions)
    np.testing.assert_allclose(got, expected, rtol=0, atol=parity.TOLERANCE)


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "SAC", "TD3"])
def test_normalised_without_statistics_is_refused(algorithm: str, tmp_path: Path) -> None:
    _, policy, _ = train(tmp_path, algorithm, actions=3, normalised=True)
    with pytest.raises(ArtifactError, match="give its statistics with --vecnormalize FILE"):
        import_sb3(policy, "v1.0.0", tmp_path / "artifacts", fields=DRIVING)
    assert not (tmp_path / "artifacts").exists()


def test_the_wrong_statistics_are_refused(tmp_path: Path) -> None:
    _, policy, _ = train(tmp_path, "PPO", actions=3, normalised=False)
    (tmp_path / "other.pkl").write_bytes(b"no pickle")
    with pytest.raises(ArtifactError, match=r"other\.pkl: refused"):
        import_sb3(
            policy,
            "v1.0.0",
            tmp_path / "a",
            vecnormalize=tmp_path / "other.pkl",
            fields=DRIVING,
        )
    assert not (tmp_path / "a" / "v1.0.0").exists()


def test_no_policy(tmp_path: Path) -> None:
    (tmp_path / "policy.zip").write_bytes(b"PK")
    with pytest.raises(ArtifactError, match="no Stable-Baselines3 policy"):
        import_sb3(tmp_path / "policy.zip", "v1.0.0", tmp_path / "artifacts")


@pytest.mark.parametrize("statistics", [False, True])
def test_a_zip_saved_under_numpy_2(statistics: bool, tmp_path: Path) -> None:
    policy = Path(__file__).parent / "sb3_files" / "sac-box-np2.zip"
    given: Any = policy.with_suffix(".pkl") if statistics else "none"
    folder = import_sb3(policy, "v1.0.0", tmp_path, vecnormalize=given, fields=["vector"])
    assert len(artifact.load(folder).preprocessing.steps) == (3 if statistics else 0)
