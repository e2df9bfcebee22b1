"""The example `sight`: its raster; what is committed is served by the real parts, and it laps."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from examples.drive import to_json
from examples.sight import BEHIND, PIXEL, SIZE, SightEnv
from examples.train import MirrorSightEnv
from tests.stack import ROOT, running_stack

ARTIFACTS = ROOT / "examples" / "artifacts" / "sight"


def test_follows_the_gymnasium_api(recwarn: pytest.WarningsRecorder) -> None:
    check_env(SightEnv(), skip_render_check=True)
    assert [str(warning.message) for warning in recwarn] == []


def test_the_raster_is_the_road_around_the_car() -> None:
    env = SightEnv()
    ahead = (SIZE - BEHIND - 0.5 - np.arange(SIZE)[:, None, None]) * PIXEL
    left = (SIZE / 2 - 0.5 - np.arange(SIZE)[None, :, None]) * PIXEL
    for seed in range(10):
        road = env.reset(seed=seed)[0]["road"][:, :, 0]
        cos, sin = np.cos(env.heading), np.sin(env.heading)
        pixels = (env.x, env.y) + ahead * (cos, sin) + left * (-sin, cos)
        gaps = pixels[:, :, None] - env.track.centre
        distance = np.hypot(gaps[..., 0], gaps[..., 1]).min(axis=2)
        assert (road[distance < env.track.width / 2.0 - PIXEL] == 255).all()
        assert (road[distance > env.track.width / 2.0 + PIXEL] == 0).all()
        assert len(np.unique(road)) > 3  # at an edge a pixel says how much of it is road


def test_the_mirror_shows_right_for_left() -> None:
    plain, mirror = SightEnv(), MirrorSightEnv()
    for env in (plain, mirror):
        env.reset(seed=0)
    for _ in range(20):
        seen, *_ = plain.step(np.array([1, 0, 0.3], np.float32))
        mirrored, *_ = mirror.step(np.array([1, 0, -0.3], np.float32))
    np.testing.assert_array_equal(seen["road"], mirrored["road"][:, ::-1])
    assert seen["speed"] == mirrored["speed"] > 10.0


@pytest.mark.live
def test_it_is_served_and_laps(
    tmp_path: Path, carlarl: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    repository, picture = str(tmp_path / "model_repository"), tmp_path / "sight.png"
    arguments = ("--artifacts", str(ARTIFACTS), "--repository", repository)
    exported = carlarl("export", *arguments)
    assert exported.returncode == 0, exported.stderr
    recorded = np.load(ARTIFACTS / "v0.1.0" / "observations.npz")
    rows = [
        to_json({"road": road, "speed": speed})
        for road, speed in zip(recorded["road"], recorded["speed"], strict=True)
    ]
    with running_stack("--repository", repository) as stack:
        url = ("--url", stack.gateway_url)
        driven = carlarl("drive", "--laps", "1", "--json", "--output", str(picture), *url)
        late = carlarl("drive", "--laps", "1", "--json", "--latency", "20", *url)
        answer = httpx.post(f"{stack.gateway_url}/predict", json={"observations": rows}).json()
    assert driven.returncode == late.returncode == 0, driven.stderr + late.stderr
    result, (delayed,) = json.loads(driven.stdout), json.loads(late.stdout)
    assert (result["version"], result["laps"], result["offTrack"]) == ("v0.1.0", 1, 0)
    assert delayed["laps"] == 1
    assert len(answer["actions"]) == len(rows)
    assert picture.stat().st_size > 50_000
