"""The example `memory`: what is committed is served by the real parts; who remembers laps."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from converters.artifact import artifact
from examples.drive import to_json
from examples.memory import MemoryEnv
from examples.track import TrackEnv
from examples.train import EVALUATION_SEED, LAP_LIMIT
from tests.gateway.streams import stream
from tests.memory import numbers
from tests.stack import ROOT, Stack, running_stack

ARTIFACTS = ROOT / "examples" / "artifacts" / "memory"
FORGETFUL, REMEMBERING = "v0.1.0", "v0.2.0"

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_follows_the_gymnasium_api(recwarn: pytest.WarningsRecorder) -> None:
    check_env(MemoryEnv(), skip_render_check=True)
    assert [str(warning.message) for warning in recwarn] == []


def test_it_shows_all_but_the_speed() -> None:
    whole, hidden = TrackEnv(), MemoryEnv()
    seen = [env.reset(seed=0)[0] for env in (whole, hidden)]
    for step in range(50):
        np.testing.assert_array_equal(seen[0][1:], seen[1])
        assert to_json(seen[0]) == {"speed": seen[0][0]} | to_json(seen[1])
        action = np.array([1, 0, 0.01 * step], np.float32)
        seen = [env.step(action)[0] for env in (whole, hidden)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, carlarl: Run) -> Iterator[Stack]:
    repository = str(tmp_path_factory.mktemp("memory") / "model_repository")
    exported = carlarl("export", "--artifacts", str(ARTIFACTS), "--repository", repository)
    assert exported.returncode == 0, exported.stderr
    with running_stack("--repository", repository) as running:
        yield running


def attempt(url: str, version: str, *, tokens: bool = True) -> tuple[int, float]:
    """Let a car start from each start of the card, all in one request a step, each with its token.

    Give the laps that were completed, and the mean distance of a car in metres.
    """
    cars = [MemoryEnv(max_steps=LAP_LIMIT) for _ in range(20)]
    seen = {car: car.reset(seed=EVALUATION_SEED + lap)[0] for lap, car in enumerate(cars)}
    states: dict[MemoryEnv, str | None] = dict.fromkeys(cars)
    laps, distances = 0, []
    with httpx.Client(base_url=url) as client:
        while seen:
            asked = {
                "observations": [to_json(one) for one in seen.values()],
                "states": [states[car] for car in seen],
                "version": version,
                "deterministic": True,
            }
            answer = client.post("/predict", json=asked).raise_for_status().json()
            given = answer.get("states", [None] * len(seen))
            for car, action, state in zip(list(seen), answer["actions"], given, strict=True):
                seen[car], _, left, late, info = car.step(numbers(action))
                states[car] = state if tokens else None
                if left or late or info["lap_times"]:
                    del seen[car]
                    laps += len(info["lap_times"])
                    distances.append(info["progress"])
    return laps, float(np.mean(distances))


@pytest.mark.live
@pytest.mark.parametrize(("version", "completed"), [(FORGETFUL, 0), (REMEMBERING, 20)])
def test_only_with_a_memory_it_laps(stack: Stack, version: str, completed: int) -> None:
    """It does what its training script measured."""
    measured = artifact.load(ARTIFACTS / version).card.performance_metrics
    laps, distance = attempt(stack.gateway_url, version)
    assert laps == measured["laps_completed"] == completed
    assert distance == pytest.approx(measured["mean_distance_m"], rel=0.02)


@pytest.mark.live
def test_it_is_the_memory_that_laps(stack: Stack) -> None:
    """Without its tokens the same policy leaves the track."""
    laps, distance = attempt(stack.gateway_url, REMEMBERING, tokens=False)
    assert laps == 0
    assert distance < 352  # half a lap


@pytest.mark.live
def test_a_stream_remembers_for_its_car(stack: Stack) -> None:
    car = MemoryEnv(put_back=True)
    seen, info = car.reset(options={"start": 0.0})
    with stream(stack.gateway_url) as vehicle:
        step = 0
        while not info["lap_times"]:
            asked = {"observation": to_json(seen), "episodeStart": step == 0}
            answer = vehicle.ask(step, deterministic=True, **asked)
            assert answer["version"] == REMEMBERING
            seen, _, _, late, info = car.step(numbers(answer["action"]))
            assert not late
            step += 1
    assert info["off_track"] == 0


@pytest.mark.live
def test_carlarl_drives_it(stack: Stack, carlarl: Run, tmp_path: Path) -> None:
    """Also in simulated time, where each drive is an episode of its own."""
    url, picture = ("--url", stack.gateway_url), tmp_path / "memory.png"
    driven = carlarl("drive", "--laps", "1", "--json", "--output", str(picture), *url)
    late = carlarl("drive", "--laps", "1", "--json", "--latency", "0,1", *url)
    assert driven.returncode == late.returncode == 0, driven.stderr + late.stderr
    result, (first, second) = json.loads(driven.stdout), json.loads(late.stdout)
    assert (result["version"], result["laps"], result["offTrack"]) == (REMEMBERING, 1, 0)
    assert (first["laps"], first["offTrack"]) == (1, 0)
    assert second["meanLapS"] == first["meanLapS"]  # 1 ms is less than a step
    assert picture.stat().st_size > 50_000
