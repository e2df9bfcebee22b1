"""Drives with late answers, against a real HTTP server that follows the gap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.drive import Service
from examples.latency import LatencyResult, drive_late, plot, table
from examples.track import TrackEnv
from tests.examples.test_drive import Server, server

__all__ = ["server"]  # the fixture


def late(server: Server, latency_ms: float | None, seconds: float = 3.0) -> LatencyResult:
    with Service(server.url) as service:
        return drive_late(service, latency_ms, 1, limit_s=seconds)


@pytest.mark.parametrize(
    ("latency_ms", "observations"), [(0.0, 60), (20.0, 60), (50.0, 60), (55.0, 30), (100.0, 30)]
)
def test_nothing_new_is_asked_while_an_answer_is_under_way(
    server: Server, latency_ms: float, observations: int
) -> None:
    result = late(server, latency_ms)
    assert len(server.requests) == observations  # of 60 ticks in three seconds
    assert result.latency_ms == latency_ms
    assert result.driven_s == pytest.approx(3.0)


def test_the_action_before_goes_on_until_the_answer_is_there(server: Server) -> None:
    server.controller = lambda _: {"throttle": 1.0, "brake": 0.0, "steer": 0.0}
    late(server, 100.0, seconds=0.25)
    speeds = [request["observations"][0]["speed"] for request in server.requests]
    env = TrackEnv(dt=0.005)
    env.reset(options={"start": 0.0})
    for _ in range(20):  # 100 ms under way
        seen, *_ = env.step(np.array([1, 0, 0], np.float32))
    assert speeds == [0.0, 0.0, pytest.approx(seen[0])]


def test_late_answers_make_a_driver_worse(server: Server) -> None:
    def eager(observation: dict[str, Any]) -> dict[str, float]:
        far_left, left, _, right, far_right = observation["sensors"]
        steer = 6.0 * (right - left) + 6.0 * (far_right - far_left)
        throttle = 0.6 if observation["speed"] < 45.0 else 0.0
        return {"throttle": throttle, "brake": 0.0, "steer": min(max(steer, -1.0), 1.0)}

    server.controller = eager
    prompt, tardy = late(server, 0.0, 15.0), late(server, 400.0, 15.0)
    assert prompt.off_track == 0
    assert tardy.off_track > 0
    assert tardy.mean_error_m > prompt.mean_error_m


def test_what_was_measured_is_charged(server: Server) -> None:
    result = late(server, None, seconds=0.5)
    assert result.name == "measured"
    assert result.latency_ms > 0.0


def test_results_are_told_and_drawn(server: Server, tmp_path: Path) -> None:
    results = [late(server, 20.0, 0.5), late(server, None, 0.5)]
    assert results[0].mean_lap_s is None
    told = json.loads(json.dumps(results[0].summary()))
    assert {"name": "20 ms", "latencyMs": 20.0, "laps": 0, "offTrack": 0}.items() <= told.items()
    head, first, second = table(results).splitlines()
    assert head.split()[:2] == ["latency", "laps"]
    assert "20 ms" in first
    assert "measured" in second
    plot(results, 1, tmp_path / "latency.png")
    data = (tmp_path / "latency.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert [int.from_bytes(data[at : at + 4], "big") for at in (16, 20)] == [1400, 640]


def test_a_finer_step_is_the_same_car() -> None:
    coarse, fine = TrackEnv(), TrackEnv(dt=0.005)
    action = np.array([0.7, 0.0, 0.1], np.float32)
    for env, steps in ((coarse, 40), (fine, 400)):
        env.reset(options={"start": 0.0})
        for _ in range(steps):
            env.step(action)
    assert fine.speed == pytest.approx(coarse.speed, rel=0.01)
    assert (fine.x, fine.y) == pytest.approx((coarse.x, coarse.y), abs=0.5)
