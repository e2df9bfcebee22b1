"""The pictures of a benchmark: `python -m perf.bench.charts RESULTS.json`.

The command draws the layers of `carlarl bench run`. The figures of `bench peers` and
`bench memory` are drawn by these.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import LogLocator, NullFormatter

from perf.bench import drawing
from perf.bench.command import Command
from perf.bench.drawing import INK, PAPER, REST, SERIES
from perf.bench.results import MemorySample, Results, load
from perf.bench.tables import (
    LAYERS,
    OURS,
    by_load,
    callers,
    load_name,
    lone_request,
    median,
    p50,
    rate,
)
from perf.load.measurement import Measurement, histogram

_COLOURS = dict(zip(reversed(LAYERS), (SERIES[at] for at in (0, 3, 5, 4, 1, 2)), strict=True))
_ABOVE: Any = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
"""Where a legend goes: between title and axes."""


def _note(picture: Picture, measured: Iterable[Measurement], more: str = "") -> Picture:
    """Write below a picture which loads its measurements come from."""
    kinds = sorted({(one.loop, one.tool) for one in measured})
    text = "; ".join(
        f"{loop} loop: {', '.join(tool for kind, tool in kinds if kind == loop)}"
        for loop in dict.fromkeys(loop for loop, _ in kinds)
    )
    drawing.note(picture, text[:1].upper() + text[1:] + more)
    return picture


def _ours(results: Results, **facts: object) -> list[Measurement]:
    """Give what was measured of this service with these facts, of the smallest batch."""
    found = [
        one
        for one in results.measurements
        if one.system == OURS and all(getattr(one, k) == v for k, v in facts.items())
    ]
    batch = min((one.batch_size for one in found), default=0)
    return [one for one in found if one.batch_size == batch]


def latency(results: Results) -> Picture | None:
    """Draw the gateway's latency over percentiles, for each load of the smallest batch."""
    found = [one for one in _ours(results, layer="gateway") if one.histogram]
    loads: dict[str, list[Measurement]] = {}
    for one in sorted(found, key=lambda one: (one.loop, one.concurrency, one.asked_per_s or 0)):
        loads.setdefault(f"{one.loop} loop, {load_name(one)}", []).append(one)
    if not loads:
        return None
    with drawing.styled():
        picture, (axes,) = drawing.new(3.5)
        furthest = 1.0
        for number, (name, repeats) in enumerate(loads.items()):
            held = histogram(pair for one in repeats for pair in one.histogram)
            last = math.log10(max(held.get_total_count(), 20))
            steps = [step * min(last, 5) / 200 for step in range(201)]
            values = [held.get_value_at_percentile(100 - 100 * 10**-at) / 1e3 for at in steps]
            style = "--" if repeats[0].loop == "open" else "-"
            axes.plot(steps, values, style, color=SERIES[number % len(SERIES)], label=name)
            furthest = max(furthest, steps[-1])
        ticks = {0.0: "0 %", math.log10(2): "50", 1.0: "90", 2.0: "99", 3.0: "99.9", 4.0: "99.99"}
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set_xlim(0, furthest)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="y", which="minor", length=0)
        axes.set_title("Latency of POST /predict by percentile, ms")
        axes.set_xlabel("percentile of requests")
        axes.grid(axis="both", which="major")
        axes.legend(loc="lower right")
        return _note(picture, found)


def concurrency(results: Results) -> Picture | None:
    """Draw requests a second over concurrency, a line for each layer, of the smallest batch."""
    found = [one for one in _ours(results, loop="closed") if one.layer != "in-process"]
    places = sorted({one.concurrency for one in found})
    if len(places) < 2:
        return None
    with drawing.styled():
        picture, (axes,) = drawing.new(3.3)
        for name, holds in LAYERS.items():
            held = [one for one in found if holds(one)]
            xs = sorted({one.concurrency for one in held})
            ys = [median((one for one in held if one.concurrency == x), rate) for x in xs]
            if held:
                axes.plot(xs, ys, "o-", markersize=4.5, color=_COLOURS[name], label=name)
        axes.set_xscale("log", base=2)
        axes.set_xticks(places, [str(place) for place in places])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.margins(x=0.04)
        rows = math.ceil(len(axes.lines) / 2)
        axes.set_title("Requests answered a second, over concurrency", pad=8 + 13 * rows)
        axes.set_xlabel("requests at once")
        axes.grid(axis="y")
        axes.legend(ncols=2, **_ABOVE)
        return _note(picture, found)


def layers(results: Results) -> Picture | None:
    """Draw the parts of a lone request's time, a bar for each way to ask."""
    found = _ours(results, loop="closed", concurrency=1)
    for held in by_load(found).values():
        if owners := lone_request(held):
            policy = ("policy", owners[0])
            bars = {"in process": [policy]}
            for name, repeats in held.items():
                if name.startswith("Triton"):
                    bars[name] = [policy, ("Triton", median(repeats, p50) - owners[0])]
            bars["gateway, JSON"] = [policy, ("Triton", owners[1]), ("gateway", owners[2])]
            return _note(stacked(bars), found)
    return None


def stacked(bars: Mapping[str, Sequence[tuple[str, float]]]) -> Picture:
    """Draw a bar for each way to ask, made of its owners' milliseconds."""
    owners = list(dict.fromkeys(owner for bar in bars.values() for owner, _ in bar))
    colours = dict(zip(owners, (SERIES[at] for at in (2, 0, 1, 3, 4)), strict=False))
    longest = max(sum(width for _, width in bar) for bar in bars.values())
    with drawing.styled():
        picture, (axes,) = drawing.new(0.42 * len(bars) + 1.5)
        for owner in owners:  # for the legend, each once
            axes.barh(0, 0, color=colours[owner], label=owner)
        for place, bar in enumerate(bars.values()):
            left = 0.0
            for owner, width in bar:
                width = max(0.0, width)
                axes.barh(place, width, 0.62, left, color=colours[owner])
                if width > longest * 0.09:  # else there is no room in the bar
                    at, text = left + width / 2, f"{width:.2f}"
                    axes.text(at, place, text, ha="center", va="center", color=PAPER, size=8)
                left += width
            text = f"{left:.2f}" if left >= 0.1 else f"{left:.3f}"
            axes.text(left + longest * 0.015, place, f"{text} ms", va="center", weight="bold")
        axes.set_xlim(0, longest * 1.16)
        columns = 3 if len(owners) < 4 else 2
        rows = math.ceil(len(owners) / columns)
        _rank(axes, list(bars), "A lone request's time, median ms", 10 + 16 * rows)
        axes.legend(ncols=columns, handlelength=1, handleheight=1, columnspacing=1.4, **_ABOVE)
    return picture


def _rank(axes: Axes, names: Sequence[str], title: str, pad: float = 8) -> None:
    """Name bars at their left, and show no scale: each bar has its figure."""
    axes.set_yticks(range(len(names)), list(names), color=INK)
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_title(title, pad=pad, x=0)


def peers(results: Results) -> Picture | None:
    """Draw this gateway beside the peers: requests a second, and the latency of a lone caller."""
    found = [one for one in results.measurements if one.layer == "gateway" and one.loop == "closed"]
    names = list(dict.fromkeys(one.system for one in found))
    if len(names) < 2:
        return None
    counts = [{one.concurrency for one in found if one.system == name} for name in names]
    low, high = min(set.intersection(*counts)), max(set.intersection(*counts))
    panels = (
        (f"Requests a second, {callers(high)}", high, rate, -1),
        (f"Median latency in ms, {callers(low)}", low, p50, 1),
    )
    with drawing.styled():
        picture, axes_of = drawing.new(2 * (0.3 * len(names) + 0.55) + 0.3, rows=2)
        for axes, (title, count, figure, best_first) in zip(axes_of, panels, strict=True):
            values = {
                name: [figure(o) for o in found if (o.system, o.concurrency) == (name, count)]
                for name in names
            }
            order = sorted(names, key=lambda n: best_first * statistics.median(values[n]))
            most = max(max(held) for held in values.values())
            for place, name in enumerate(order):
                held, own = values[name], name == OURS
                middle = statistics.median(held)
                axes.barh(place, middle, 0.66, color=SERIES[0] if own else REST)
                axes.plot([min(held), max(held)], [place, place], color=INK, linewidth=1.1)
                text = f"{middle:,.0f}" if middle >= 100 else f"{middle:.2f}"
                weight = "bold" if own else "normal"
                axes.text(max(held) + most * 0.015, place, text, va="center", weight=weight)
            axes.set_xlim(0, most * 1.14)
            _rank(axes, order, title)
        return _note(picture, found, "; medians, lines: ranges")


def memory(samples: Sequence[MemorySample]) -> Picture:
    """Draw what gateway, Triton and /dev/shm hold over the requests of a run."""
    thousands = [sample.requests / 1000 for sample in samples]
    with drawing.styled():
        picture, rows = drawing.new(4.6, rows=3, shared=True)
        titles = {"gateway": "Gateway, MB", "triton": "Triton, MB", "shm": "/dev/shm, MB"}
        for number, (axes, (part, title)) in enumerate(zip(rows, titles.items(), strict=True)):
            held = [float(getattr(sample, part)) for sample in samples]
            axes.plot(thousands, held, "o-", markersize=2.5, color=SERIES[number])
            middle = (min(held) + max(held)) / 2
            reach = max(5.0, 0.6 * (max(held) - min(held)))  # noise is not drawn as a mountain
            axes.set_ylim(max(0.0, middle - reach), middle + reach)
            axes.set_title(title)
            axes.grid(axis="y")
        rows[-1].set_xlabel("thousands of requests")
        drawing.note(picture, "Without mapped files; closed loop, 32 callers")
    return picture


@click.command(cls=Command)
@click.argument("results", type=click.Path(path_type=Path), default=Path("runs/bench.json"))
@click.option("--output", type=click.Path(path_type=Path), help="[default: charts/ beside it]")
def main(results: Path, output: Path | None) -> None:
    """Write a PNG of each figure that a results file of `carlarl bench run` has."""
    found, folder = load(results), output or results.parent / "charts"
    folder.mkdir(parents=True, exist_ok=True)
    for draw in (latency, layers, concurrency):
        if (picture := draw(found)) is not None:
            drawing.save(picture, folder / f"{draw.__name__}.png")
            click.echo(folder / f"{draw.__name__}.png")


if __name__ == "__main__":
    main()
