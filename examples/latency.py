"""Does a policy mind milliseconds: drive the track with answers that come late, and draw it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.drive import Service
from examples.track import CAR_WIDTH, DT, TrackEnv

SIMULATED_MS = 5.0  # one simulation step, so that a few milliseconds can be told apart
CONTROL_STEPS = round(DT * 1000 / SIMULATED_MS)  # between two observations
LAP_LIMIT_S = 120.0  # a drive may take so long for each of its laps


@dataclass(frozen=True)
class LatencyResult:
    """What a drive with late answers did.

    Attributes:
        name: what was charged: milliseconds as `20 ms`, or `measured`.
        version: of the policy that answered.
        latency_ms: charged for an answer, the mean.
        laps: completed.
        off_track: how often the car left the track and was put back.
        driven_s: seconds of driving.
        mean_lap_s: seconds for a completed lap; None without one.
        mean_error_m, p95_error_m: distance to the centre line, over all steps.
    """

    name: str
    version: str
    latency_ms: float
    laps: int
    off_track: int
    driven_s: float
    mean_lap_s: float | None
    mean_error_m: float
    p95_error_m: float

    def summary(self) -> dict[str, Any]:
        """Return it ready for `json.dumps`, named as the API names things."""
        words = {name: name.split("_") for name in asdict(self)}
        camel = {
            name: first + "".join(map(str.title, rest)) for name, (first, *rest) in words.items()
        }
        values = asdict(self).items()
        return {camel[k]: round(v, 3) if isinstance(v, float) else v for k, v in values}


def drive_late(
    service: Service,
    latency_ms: float | None,
    laps: int,
    *,
    kind: type[TrackEnv] = TrackEnv,
    on_progress: Callable[[float], None] | None = None,
    limit_s: float | None = None,
) -> LatencyResult:
    """Drive `laps` laps from the start line with answers that take `latency_ms`.

    The car observes 20 times a second of simulated time. An answer is applied so long after its
    observation, rounded to `SIMULATED_MS`; until then the action before it goes on, and nothing new
    is asked. With None, each answer is charged what it took. The drive ends after `limit_s`
    simulated seconds, `LAP_LIMIT_S` for each lap where absent.

    Raises:
        DriveError: the service cannot be reached, or answers with an error.
    """
    env = kind(put_back=True, max_steps=None, dt=SIMULATED_MS / 1000)
    observation, info = env.reset(options={"start": 0.0})
    service.reset()
    current: NDArray[np.float32] = np.zeros(3, dtype=np.float32)
    coming, left, version = current, 0, ""
    charged, errors = [], []
    limit = round((LAP_LIMIT_S * laps if limit_s is None else limit_s) * 1000 / SIMULATED_MS)
    for step in range(limit):
        if left == 0:  # what was under way is there
            current = coming
        if left == 0 and step % CONTROL_STEPS == 0:
            coming, version, took_ms = service.predict(observation, step // CONTROL_STEPS)
            charged.append(took_ms if latency_ms is None else latency_ms)
            left = math.floor(charged[-1] / SIMULATED_MS + 0.5)
            current = coming if left == 0 else current
        left = max(left - 1, 0)
        off_track = info["off_track"]
        observation, _, _, _, info = env.step(current)
        if info["off_track"] > off_track:
            service.reset()
        errors.append(abs(env.track.locate(env.x, env.y)[1]))
        if on_progress is not None and step % 100 == 0:
            on_progress(info["laps"])
        if len(info["lap_times"]) >= laps:
            break
    times = info["lap_times"]
    return LatencyResult(
        name="measured" if latency_ms is None else f"{latency_ms:g} ms",
        version=version,
        latency_ms=float(np.mean(charged)),
        laps=len(times),
        off_track=info["off_track"],
        driven_s=len(errors) * SIMULATED_MS / 1000,
        mean_lap_s=float(np.mean(times)) if times else None,
        mean_error_m=float(np.mean(errors)),
        p95_error_m=float(np.percentile(errors, 95)),
    )


def table(results: Sequence[LatencyResult]) -> str:
    """Write the results as a table for a terminal."""
    head = ("latency", "laps", "mean lap", "off track", "error, mean", "error, p95")
    rows = [
        (
            one.name if one.name != "measured" else f"measured ({one.latency_ms:.1f} ms)",
            str(one.laps),
            "-" if one.mean_lap_s is None else f"{one.mean_lap_s:.2f} s",
            str(one.off_track),
            f"{one.mean_error_m:.2f} m",
            f"{one.p95_error_m:.2f} m",
        )
        for one in results
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in (head, *rows)
    )


def plot(results: Sequence[LatencyResult], laps: int, path: str | Path) -> None:
    """Write a PNG, 1400x640 pixels: laps, lateral error and leaving the track over latency."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    ordered = sorted(results, key=lambda one: one.latency_ms)
    ink, grey, line, blue, red = "#1b1f24", "#5b6470", "#c9ced6", "#2563a8", "#c2372e"
    figure = Figure(figsize=(14, 6.4), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    x = range(len(ordered))
    marks = [
        f"{one.latency_ms:.3g}" + ("\nmeasured" if one.name == "measured" else "")
        for one in ordered
    ]
    titles = ("laps completed, and seconds a lap", "distance to the centre line", "times off track")
    panels = [figure.add_axes((0.05 + 0.325 * i, 0.14, 0.275, 0.57)) for i in range(3)]
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, loc="left", color=ink, fontsize=14, pad=14)
        axes.set_xlabel("latency of an answer (ms)", color=grey, fontsize=12)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(line)
        axes.tick_params(color=line, labelcolor=grey, labelsize=11, length=0)
        axes.grid(axis="y", color="#e6e9ed")
        axes.set_axisbelow(True)
        axes.set_xticks(x, marks)
        axes.set_xlim(-0.6, len(ordered) - 0.4)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))

    lap_axes, error_axes, off_axes = panels
    lap_bars = lap_axes.bar(x, [one.laps for one in ordered], color=blue, width=0.55)
    times = ["" if one.mean_lap_s is None else f"{one.mean_lap_s:.1f}" for one in ordered]
    lap_axes.bar_label(lap_bars, times, padding=4, color=ink, fontsize=11)
    lap_axes.set_ylim(0, laps * 1.2)

    mean = [one.mean_error_m for one in ordered]
    p95 = [one.p95_error_m for one in ordered]
    edge = (TrackEnv().track.width - CAR_WIDTH) / 2
    error_axes.axhline(edge, color=red, linewidth=1.6)
    error_axes.text(
        -0.5, edge + 0.08, "beyond this the car is off the track", color=red, fontsize=11
    )
    error_axes.fill_between(x, mean, p95, color=blue, alpha=0.13, linewidth=0)
    error_axes.plot(x, p95, color=blue, linewidth=1.6, dashes=(4, 2))
    error_axes.plot(x, mean, color=blue, marker="o", markersize=8, linewidth=2)
    for values, name in ((p95, "95th percentile"), (mean, "mean")):
        error_axes.text(-0.5, values[0] + 0.17, name, color=blue, fontsize=11)
    error_axes.set_ylim(0, edge * 1.2)
    error_axes.yaxis.set_major_formatter("{x:.0f} m")

    off = [one.off_track for one in ordered]
    off_axes.bar_label(off_axes.bar(x, off, color=red, width=0.55), padding=4, color=ink)
    off_axes.set_ylim(0, max(*off, 4) * 1.2)

    title = f"What latency does to policy {ordered[0].version}"
    figure.text(0.045, 0.91, title, color=ink, fontsize=21, weight="bold")
    told = (
        f"{laps} laps of the example track at each latency; 20 observations a second, "
        "and the action before goes on until the answer is there"
    )
    figure.text(0.045, 0.85, told, color=grey, fontsize=14)
    figure.savefig(path)
