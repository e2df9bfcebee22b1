"""Drive the track through the HTTP API: one observation out, one action back, at every step."""

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray

from examples import memory, sight
from examples.track import DT, SENSOR_ANGLES, TrackEnv

Progress = Callable[[int, float], None]

SEEN = 200  # steps from one raster that is kept to the next
SHOWN = 4  # of them


class DriveError(Exception):
    """The service could not be reached, or did not answer with an action."""


@dataclass(frozen=True, eq=False)
class DriveResult:
    """What a drive did.

    Attributes:
        version: of the policy that answered, as the service named it.
        laps: completed.
        off_track: how often the car left the track and was put back.
        steps: driven, 20 to a second of driving.
        lap_times_s: seconds for each completed lap.
        mean_speed_kmh: over all steps.
        latency_ms: round trip of a request as the driver saw it: `p50`, `p95`, `p99` and `max`.
        x, y: position at each step, metres, shape (steps,).
        speed_kmh: at each step, shape (steps,).
        seen: raster after each `SEEN` steps, shape (48, 48, 1); none for a policy that sees none.
    """

    version: str
    laps: int
    off_track: int
    steps: int
    lap_times_s: tuple[float, ...]
    mean_speed_kmh: float
    latency_ms: dict[str, float]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    speed_kmh: NDArray[np.float64]
    seen: tuple[NDArray[np.uint8], ...]

    def summary(self) -> dict[str, Any]:
        """Return all but the trajectory, ready for `json.dumps`."""
        return {
            "version": self.version,
            "laps": self.laps,
            "offTrack": self.off_track,
            "steps": self.steps,
            "lapTimesS": [round(seconds, 3) for seconds in self.lap_times_s],
            "meanSpeedKmh": round(self.mean_speed_kmh, 2),
            "latencyMs": {name: round(value, 3) for name, value in self.latency_ms.items()},
        }


def environment(metadata: dict[str, Any]) -> type[TrackEnv] | None:
    """Return what shows the track as the active version observes it, or None.

    `metadata` is the answer of `GET /metadata`. None: there is no such environment, or its actions
    are no controls.
    """
    if metadata.get("sensors") == len(SENSOR_ANGLES):
        return TrackEnv
    parts = metadata["observationSpace"].get("subspaces")
    if metadata["control"] is None or not isinstance(parts, dict):
        return None
    shapes = {name: part.get("shape") for name, part in parts.items()}
    kinds = ((sight.SHAPES, sight.SightEnv), (memory.SHAPES, memory.MemoryEnv))
    return next((kind for expected, kind in kinds if shapes == expected), None)


def drive(
    service: "Service",
    laps: int,
    *,
    kind: type[TrackEnv] = TrackEnv,
    on_progress: Progress | None = None,
    max_steps: int = 20_000,
) -> DriveResult:
    """Drive `laps` laps from the start line; a car that leaves the track is put back and goes on.

    Args:
        service: what is asked for actions.
        laps: how many to complete, 1 or more.
        kind: of environment, see `environment`.
        on_progress: called after every step with the steps so far and the laps so far.
        max_steps: give up after so many, even with laps left to drive.

    Raises:
        DriveError: the service cannot be reached, or answers with an error.
    """
    env = kind(put_back=True, max_steps=max_steps)
    observation, info = env.reset(options={"start": 0.0})
    service.reset()
    latencies, trajectory, seen, served, steps, truncated = [], [], [], "", 0, False
    while len(info["lap_times"]) < laps and not truncated:
        action, served, took_ms = service.predict(observation, steps)
        latencies.append(took_ms)
        off_track = info["off_track"]
        observation, _, _, truncated, info = env.step(action)
        if info["off_track"] > off_track:
            service.reset()  # put back on the track, it drives as if it had just set out
        trajectory.append((info["x"], info["y"], info["speed"]))
        steps += 1
        if isinstance(observation, dict) and steps % SEEN == 0:
            seen.append(observation["road"])
        if on_progress is not None:
            on_progress(steps, info["laps"])
    x, y, speed = np.asarray(trajectory).T
    p50, p95, p99 = np.percentile(latencies, (50, 95, 99)).tolist()
    return DriveResult(
        version=served,
        laps=len(info["lap_times"]),
        off_track=info["off_track"],
        steps=steps,
        lap_times_s=info["lap_times"],
        mean_speed_kmh=float(speed.mean()),
        latency_ms={"p50": p50, "p95": p95, "p99": p99, "max": max(latencies)},
        x=x,
        y=y,
        speed_kmh=speed,
        seen=tuple(seen),
    )


class Service:
    """The service that is asked for actions, on a connection that is kept.

    Args:
        url: of the service, such as `http://127.0.0.1:8080`.
        deterministic: ask for the policy's mean action; else for a sampled one.
        seed: makes sampled actions repeatable: step i asks with seed + i. Without one the service
            draws the seeds.
        version: of the policy, such as `v0.2.0`; the service's active one where absent.
        api_key: sent as `X-API-Key`.
    """

    def __init__(
        self,
        url: str,
        *,
        deterministic: bool = True,
        seed: int | None = None,
        version: str | None = None,
        api_key: str | None = None,
    ) -> None:
        """Connect at the first request; see `drive` for the arguments."""
        self._deterministic = deterministic
        self._seed = None if deterministic else seed
        self._version = version
        self._states: list[str] | None = None
        headers = {} if api_key is None else {"X-API-Key": api_key}
        host = httpx.URL(url).host
        local = host in ("localhost", "::1") or host.startswith("127.")  # no proxy can reach it
        no_proxy: dict[str, None] = {url: None} if local else {}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=30.0, mounts=no_proxy)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._client.close()

    def reset(self) -> None:
        """Let the next request start an episode, for a policy that remembers."""
        self._states = None

    def predict(self, observation: Any, step: int) -> tuple[NDArray[np.float32], str, float]:
        """Return the action, shape (3,), the version that computed it, and milliseconds taken.

        Sampled actions are asked for with the seed plus `step`. All answers are of the version that
        answered first, also where another is promoted meanwhile. Raises DriveError.
        """
        request: dict[str, Any] = {
            "observations": [to_json(observation)],
            "deterministic": self._deterministic,
        }
        if self._seed is not None:
            request["seed"] = (self._seed + step) % 2**63
        if self._version is not None:
            request["version"] = self._version
        if self._states is not None:
            request["states"] = self._states
        started = time.perf_counter()
        action, version, self._states = _predict(self._client, request)
        self._version = version
        return action, version, (time.perf_counter() - started) * 1000.0


def to_json(observation: Any) -> dict[str, Any]:
    """Return an observation of `TrackEnv`, `MemoryEnv` or `SightEnv` as the API takes it."""
    if isinstance(observation, dict):
        road = base64.b64encode(observation["road"].tobytes()).decode()
        return {"road": road, "speed": observation["speed"].tolist()}
    numbers = observation.tolist()
    names = ("speed", "steering") if len(numbers) == 7 else ("steering",)
    return dict(zip(names, numbers, strict=False)) | {"sensors": numbers[len(names) :]}


def _predict(
    client: httpx.Client, request: dict[str, Any]
) -> tuple[NDArray[np.float32], str, list[str] | None]:
    """Return the action, shape (3,), the version that computed it, and what it remembers."""
    try:
        response = client.post("/predict", json=request)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise DriveError(f"No answer from {client.base_url}: {error}") from error
    try:
        answer = response.json()
        if response.is_success:
            action = answer["actions"][0]
            values = [action["throttle"], action["brake"], action["steer"]]
            return np.array(values, dtype=np.float32), answer["version"], answer.get("states")
        code, message = answer["error"], answer["message"]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DriveError(
            f"{response.url} answered {response.status_code} with something that is not from "
            f"this API: {response.text[:200]!r}"
        ) from error
    raise DriveError(f"{code}: {message}")


def plot(result: DriveResult, path: str | Path) -> None:
    """Write a PNG, 1400x760 pixels, of the track and the driven line, coloured by speed.

    Where the policy sees rasters, it shows some, and where they were seen.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    track = TrackEnv().track
    ink, grey = "#1b1f24", "#5b6470"
    figure = Figure(figsize=(14, 7.6), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.84))
    axes.set_aspect("equal")
    axes.set_axis_off()

    surface = np.concatenate((track.left, track.right[::-1]))
    axes.fill(*surface.T, color="#e6e9ed", linewidth=0, zorder=0)
    for edge in (track.left, track.right):
        axes.plot(*edge.T, color=grey, linewidth=1.6, zorder=2)
    axes.plot(*track.centre.T, color="white", linewidth=1.2, dashes=(8, 8), zorder=1)
    axes.plot(*np.stack((track.left[0], track.right[0])).T, color=ink, linewidth=4, zorder=2)
    (x, y), heading = track.left[0], float(np.degrees(track.heading[0]))
    axes.text(x, y + 2.5, "start \u2192", color=ink, fontsize=12, ha="center", rotation=heading)

    points = np.column_stack((result.x, result.y))
    put_back = np.diff(result.speed_kmh) < -4.0  # more than the brakes can do in a step
    line = LineCollection(
        list(np.stack((points[:-1], points[1:]), axis=1)[~put_back]),
        array=result.speed_kmh[1:][~put_back],
        cmap="turbo",
        linewidths=2.6,
        capstyle="round",
        zorder=3,
    )
    axes.add_collection(line)
    left_at = points[:-1][put_back]
    axes.scatter(left_at[:, 0], left_at[:, 1], s=80, c=ink, marker="x", linewidths=2.5, zorder=4)

    for index, road in enumerate(result.seen[:SHOWN]):
        at, name = points[(index + 1) * SEEN - 1], f"{(index + 1) * SEEN * DT:g} s"
        view = figure.add_axes((0.553 + 0.108 * index, 0.768, 0.1, 0.184))
        view.imshow(road[:, :, 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        view.set(xticks=[], yticks=[])
        view.set_title("seen by the policy" if index == 0 else "", color=grey, loc="left")
        view.set_xlabel(name, color=grey, fontsize=12)
        axes.plot(*at, "o", color=ink, markersize=8, zorder=4)
        axes.annotate(name, at, xytext=(0, 9), textcoords="offset points", ha="center", color=ink)

    scale = axes.inset_axes((60.0, 27.0, 90.0, 2.8), transform=axes.transData)  # in the infield
    bar = figure.colorbar(line, cax=scale, orientation="horizontal")
    bar.set_label("speed (km/h)", color=ink, fontsize=12)
    bar.ax.tick_params(color=grey, labelcolor=ink, labelsize=11)
    bar.outline.set_visible(False)

    best = f"best lap {min(result.lap_times_s):.2f} s" if result.lap_times_s else "no full lap"
    facts = (
        f"{result.laps} {'lap' if result.laps == 1 else 'laps'}",
        f"{result.off_track} \u00d7 off track",
        best,
        f"mean {result.mean_speed_kmh:.0f} km/h",
    )
    figure.text(0.03, 0.92, f"policy {result.version}", color=ink, fontsize=21, weight="bold")
    figure.text(0.03, 0.872, "   \u00b7   ".join(facts), color=grey, fontsize=15)
    figure.savefig(path)
