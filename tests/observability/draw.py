"""Draw the dashboard's own queries: `python -m tests.observability.draw docs/dashboard.png`.

Two gateways, one of them of two workers, share a Triton; a real Prometheus scrapes all of them for
a minute and a half, while clients replay recorded observations and what `happen` says happens.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import matplotlib as mpl
import numpy as np
import psutil
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from perf.bench import charts
from tests.gateway.processes import gateway_process
from tests.observability.prometheus import Prometheus, panels, running_prometheus
from tests.stack import ROOT, Stack, running_stack

INTERVAL_S = 1
WIDTH_IN, UNIT_IN, HEAD = 15.0, 0.27, 2
"""The page, one step of the dashboard's grid downwards, and such steps above the dashboard."""
COLUMNS = 24

Event = tuple[float, str]


class Clients:
    """Threads that replay recorded observations to gateways, as fast as they are answered."""

    def __init__(self, pool: ThreadPoolExecutor, urls: tuple[str, ...]) -> None:
        self.stop = threading.Event()
        self._pool = pool
        self._urls = urls
        recorded = np.load(ROOT / "artifacts" / "v0.2.0" / "observations.npy")
        self._seen = [
            {"speed": float(row[0]), "steering": float(row[1]), "sensors": row[2:].tolist()}
            for row in recorded
        ]

    def add(self, count: int, rows: int) -> None:
        """Let `count` more ask at each gateway, for up to `rows` actions a time."""
        for index in range(count):
            for url in self._urls:
                self._pool.submit(self._ask, url, rows, index)

    def err(self, seconds: float) -> None:
        """Ask for what can't be answered, for a while."""
        end = time.monotonic() + seconds
        with httpx.Client() as client:
            while time.monotonic() < end:
                for wrong in ({"observations": []}, self._content(0, 1) | {"version": "v9.9.9"}):
                    client.post(f"{self._urls[0]}/predict", json=wrong, timeout=30)
                time.sleep(0.01)

    def _ask(self, url: str, rows: int, start: int) -> None:
        turn = start * 97
        with httpx.Client(timeout=30) as client:
            while not self.stop.is_set():
                turn += rows
                count = 1 + turn % rows
                answer = client.post(f"{url}/predict", json=self._content(turn, count))
                if answer.status_code != 200:
                    time.sleep(0.05)

    def _content(self, start: int, count: int) -> dict[str, Any]:
        start %= len(self._seen) - count
        return {"observations": self._seen[start : start + count]}


def happen(stack: Stack, repository: Path, clients: Clients) -> list[Event]:
    """Do what the picture shows; give when, and what."""
    events: list[Event] = []

    def then(after_s: float, what: str, do: Callable[[], object]) -> None:
        time.sleep(after_s)
        events.append((time.time(), what))
        do()

    promote = [sys.executable, "-m", "carlarl", "promote", "v0.1.0"]
    promote += ["--repository", str(repository), "--triton", f"http://{stack.triton_http}"]
    then(0, "few clients, one observation a request", lambda: clients.add(1, 1))
    then(20, "more, with up to 60 observations", lambda: clients.add(5, 60))
    then(20, "v0.1.0 is promoted", lambda: subprocess.run(promote, cwd=ROOT, check=True))
    then(15, "wrong requests too", lambda: clients.err(8))
    then(7, "Triton is killed", lambda: _triton(stack).kill())
    time.sleep(20)
    return events


def _triton(stack: Stack) -> psutil.Process:
    children = psutil.Process(stack.process.pid).children()
    (server,) = [one for one in children if one.name() == "tritonserver"]
    return server


@contextmanager
def watched() -> Iterator[tuple[Prometheus, list[Event], float]]:
    """Run all of it; give what Prometheus saw, what happened, and when it ended."""
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        repository = folder / "model_repository"
        shutil.copytree(ROOT / "model_repository", repository)
        stack = running.enter_context(running_stack(MODEL_REPOSITORY=str(repository)))
        triton = f"http://{stack.triton_http}"
        other = running.enter_context(gateway_process(TRITON_URL=triton, WORKERS="2"))
        urls = (stack.gateway_url, other)
        targets = {
            "gateway": [url.removeprefix("http://") for url in urls],
            "triton": [stack.triton_metrics],
        }
        prometheus = running.enter_context(
            running_prometheus(folder, targets, f"{INTERVAL_S}s", f"{4 * INTERVAL_S}s")
        )
        time.sleep(5 * INTERVAL_S)  # so that rates begin with the load
        with ThreadPoolExecutor(32) as pool:
            clients = Clients(pool, urls)
            try:
                events = happen(stack, repository, clients)
                end = time.time()
            finally:
                clients.stop.set()
        yield prometheus, events, end


def draw(prometheus: Prometheus, events: list[Event], end: float, target: Path) -> None:
    """Draw each panel where the dashboard has it."""
    shown = panels()
    height = HEAD + max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in shown)
    rows = {p["row"]: HEAD + p["gridPos"]["y"] - 1 for p in reversed(shown)}
    with mpl.rc_context(fname=charts.STYLE):
        figure = Figure(figsize=(WIDTH_IN, height * UNIT_IN))
        FigureCanvasAgg(figure)
        text = "     ".join(f"{number}  {what}" for number, (_, what) in enumerate(events, 1))
        figure.text(0.012, 1 - 1 / height, text, fontsize=11, weight="bold")
        for row, y in rows.items():
            figure.text(0.012, 1 - (y + 0.8) / height, row, fontsize=12, color=charts.SERIES[0])
        for panel in shown:
            place = panel["gridPos"]
            bottom = HEAD + place["y"] + place["h"] - 1
            left, width = (place["x"] + 1.1) / COLUMNS, (place["w"] - 1.4) / COLUMNS
            axes = figure.add_axes((left, 1 - bottom / height, width, (place["h"] - 2.4) / height))
            _panel(axes, panel, prometheus, events, end)
        figure.savefig(target, dpi=85)


def _panel(
    axes: Axes, panel: dict[str, Any], prometheus: Prometheus, events: list[Event], end: float
) -> None:
    start = events[0][0]
    settings = panel["fieldConfig"]["defaults"]
    stat = panel["type"] == "stat"
    axes.set_title(panel["title"], fontsize=9)
    lines = [
        (_named(query["legendFormat"], labels), times - start, values)
        for query in panel["targets"]
        for labels, times, values in _range(prometheus, query["expr"], start, end)
    ]
    for index, (name, times, values) in enumerate(lines):
        last = f" {_written(float(f'{values[-1]:.3g}'), settings['unit'])}" if stat else ""
        colour = [*charts.SERIES, charts.REST][index % 7]
        axes.plot(times, values, color=colour, linewidth=1.2, label=name + last)
    for number, (when, _) in enumerate(events, 1):
        axes.axvline(when - start, color=charts.MUTED, linewidth=0.8, linestyle=":")
        place = (when - start, 1.01)
        axes.annotate(str(number), place, xycoords=("data", "axes fraction"), fontsize=6)
    axes.set_xlim(0, end - start)
    axes.set_ylim(settings.get("min", 0 if stat else None), settings.get("max"))
    axes.tick_params(labelsize=7)
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(MaxNLocator(2 if stat else 4))
    axes.yaxis.set_major_formatter(lambda value, _: _written(value, settings["unit"]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f} s")
    if lines:
        legend = axes.legend(fontsize=6.5, loc="upper left", ncols=1 + len(lines) // 6)
        legend.set_frame_on(True)
        legend.get_frame().set(alpha=0.6, linewidth=0)
    else:
        note = "there is no GPU" if panel["row"] == "GPU" else "none"
        axes.text(0.5, 0.5, note, transform=axes.transAxes, ha="center", color=charts.MUTED)


def _named(legend: str, labels: dict[str, str]) -> str:
    for label, value in labels.items():
        legend = legend.replace("{{" + label + "}}", value)
    return legend


def _range(
    prometheus: Prometheus, expression: str, start: float, end: float
) -> Iterator[tuple[dict[str, str], Any, Any]]:
    """Return labels, times and values of each series; not a number where it has none."""
    times = np.arange(start, end, INTERVAL_S)
    answer = prometheus.ask(
        "query_range", query=prometheus.filled(expression), start=start, end=end, step=INTERVAL_S
    )
    for row in answer["result"]:
        values = np.full(len(times) + 1, np.nan)
        for when, value in row["values"]:
            values[round((when - start) / INTERVAL_S)] = float(value)
        yield row["metric"], times, values[: len(times)]


def _written(value: float, unit: str) -> str:
    match unit:
        case "s" if abs(value) < 1:
            return f"{value * 1000:g} ms"
        case "s":
            return f"{value:g} s"
        case "percentunit":
            return f"{value * 100:g}%"
        case "bytes":
            return f"{value / 1e6:g} MB"
        case "reqps":
            return f"{value:g}/s"
    return "–" if math.isnan(value) else f"{value:g}"


if __name__ == "__main__":
    with watched() as (seen, happened, ended):
        draw(seen, happened, ended, Path(sys.argv[1]))
