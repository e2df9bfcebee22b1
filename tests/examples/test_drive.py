"""The driver against a real HTTP server that drives the car by its range finders."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.drive import DriveError, DriveResult, Service, drive, plot
from tests.http_server import HttpServer

API_KEY = "let-me-in"


def driven(url: str, laps: int, *, on_progress: Any = None, **options: Any) -> DriveResult:
    """Drive; `options` are those of the service, and `max_steps`."""
    limit = {name: options.pop(name) for name in ("max_steps",) if name in options}
    with Service(url, **options) as service:
        return drive(service, laps, on_progress=on_progress, **limit)


def follow_the_gap(observation: dict[str, Any]) -> dict[str, float]:
    """A slow controller: steer to where there is more room, at about 25 km/h."""
    far_left, left, _, right, far_right = observation["sensors"]
    steer = 6.0 * (right - left) + 6.0 * (far_right - far_left)
    return {
        "throttle": 0.6 if observation["speed"] < 25.0 else 0.0,
        "brake": 0.0,
        "steer": min(max(steer, -1.0), 1.0),
    }


class Handler(BaseHTTPRequestHandler):
    """The part of the gateway's API that a driver meets."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        request = json.loads(body)
        self.server.requests.append(request)
        self.server.connections.add(self.client_address)
        version = request.get("version", "v0.2.0")
        if self.path != "/predict":
            self.answer(404, {"error": "HTTP_ERROR", "message": "Not Found", "details": {}})
        elif self.headers.get("X-API-Key", API_KEY) != API_KEY:
            self.answer(401, {"error": "UNAUTHORIZED", "message": "Wrong key", "details": {}})
        elif version != "v0.2.0":
            message = f"no version {version}"
            self.answer(404, {"error": "MODEL_NOT_FOUND", "message": message, "details": {}})
        else:
            actions = [self.server.controller(each) for each in request["observations"]]
            deterministic = request["deterministic"]
            answer = {"actions": actions, "version": version, "deterministic": deterministic}
            self.answer(200, answer | {"timingMs": 0.1})

    def answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""


class Server(HttpServer):
    """Remembers what it was asked, and on how many connections."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.controller = follow_the_gap
        self.requests: list[dict[str, Any]] = []
        self.connections: set[Any] = set()
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_drives_a_lap_and_draws_it(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, float]] = []
    result = driven(server.url, 1, on_progress=lambda steps, laps: seen.append((steps, laps)))
    assert (result.laps, result.off_track, result.version) == (1, 0, "v0.2.0")
    assert result.steps == len(server.requests) == len(result.x) == len(result.speed_kmh)
    assert result.lap_times_s[0] == pytest.approx(result.steps * 0.05, abs=0.05)
    assert result.mean_speed_kmh == pytest.approx(result.speed_kmh.mean())
    latency = result.latency_ms
    assert 0.0 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"]
    assert seen[-1][0] == result.steps
    assert seen[-1][1] >= 1.0
    assert len(server.connections) == 1
    assert json.loads(json.dumps(result.summary()))["laps"] == 1

    picture = tmp_path / "drive.png"
    plot(result, picture)
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert [int.from_bytes(data[at : at + 4], "big") for at in (16, 20)] == [1400, 760]
    assert len(data) < 300_000


def test_asks_for_exactly_what_it_sees(server: Server) -> None:
    driven(server.url, 1, version="v0.2.0", max_steps=2)
    first, second = server.requests
    assert set(first) == {"observations", "deterministic", "version"}
    assert first["deterministic"] is True
    (observation,) = first["observations"]
    assert observation["speed"] == observation["steering"] == 0.0
    assert len(observation["sensors"]) == 5
    assert second["observations"][0]["speed"] > 0.0


def test_a_drive_is_of_the_version_that_answered_first(server: Server) -> None:
    """What is promoted meanwhile does not drive on; what is no longer served ends the drive."""
    result = driven(server.url, 1, max_steps=3)
    assert [request.get("version") for request in server.requests] == [None, "v0.2.0", "v0.2.0"]
    assert result.version == "v0.2.0"


def test_sampled_actions_get_a_seed_for_each_step(server: Server) -> None:
    driven(server.url, 1, deterministic=False, seed=7, max_steps=3)
    assert [request["seed"] for request in server.requests] == [7, 8, 9]
    assert not any(request["deterministic"] for request in server.requests)


def test_off_track_is_counted_and_drawn(server: Server, tmp_path: Path) -> None:
    server.controller = lambda _: {"throttle": 1.0, "brake": 0.0, "steer": 0.0}
    result = driven(server.url, 1, max_steps=300)
    assert result.steps == 300
    assert result.laps == 0
    assert result.off_track > 0
    plot(result, tmp_path / "drive.png")


def test_an_error_answer_is_named(server: Server) -> None:
    with pytest.raises(DriveError, match=r"MODEL_NOT_FOUND: no version v9\.0\.0"):
        driven(server.url, 1, version="v9.0.0")
    with pytest.raises(DriveError, match="UNAUTHORIZED: Wrong key"):
        driven(server.url, 1, api_key="wrong")
    assert driven(server.url, 1, api_key=API_KEY, max_steps=1).steps == 1


def test_an_answer_from_something_else_is_named(server: Server) -> None:
    server.controller = lambda _: {"gas": 1.0}
    with pytest.raises(DriveError, match="not from this API"):
        driven(server.url, 1)


def test_a_refused_connection_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(DriveError, match=url):
            driven(url, 1)


def test_drive_imports_no_other_part_of_the_project() -> None:
    folder = Path(__file__).parents[2] / "examples"
    others = ("gateway", "carlarl", "converters", "triton_backend", "perf", "carlarl_client")
    for module in folder.glob("*.py"):
        words = {line.split()[1].split(".")[0] for line in import_lines(module)}
        assert not words.intersection(others), module


def import_lines(module: Path) -> list[str]:
    lines = (line.strip() for line in module.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line.startswith(("import ", "from "))]


def test_plot_needs_no_full_lap(server: Server, tmp_path: Path) -> None:
    result = driven(server.url, 1, max_steps=40)
    assert np.isfinite(result.x).all()
    plot(result, tmp_path / "drive.png")
    assert (tmp_path / "drive.png").stat().st_size > 10_000


def test_a_proxy_is_not_asked_for_this_machine(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert driven(server.url, 1, max_steps=1).steps == 1
