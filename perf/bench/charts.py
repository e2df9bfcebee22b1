"""The pictures of a benchmark, of peers and of `python -m perf.bench.charts RESULTS.json`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from pathlib import Path

import click
from matplotlib.figure import Figure as Picture

from perf.bench import drawing
from perf.bench.command import Command
from perf.bench.drawing import INK, REST, SERIES
from perf.bench.results import Results, load
from perf.bench.tables import LAYERS, OURS, callers, median, p50, rate
from perf.load.measurement import Measurement

_COLOURS = dict(zip(reversed(LAYERS), (SERIES[at] for at in (0, 3, 5, 4, 1, 2)), strict=True))


def _note(picture: Picture, measured: Iterable[Measurement], more: str = "") -> Picture:
    """Write below a picture which loads its measurements come from."""
    kinds = sorted({f"{one.loop} loop by {one.tool}" for one in measured})
    drawing.note(picture, ", ".join(kinds).capitalize() + more)
    return picture


def concurrency(results: Results) -> Picture | None:
    """Draw requests a second over concurrency, a line for each layer, of the smallest batch.

    Return None where the results have fewer than two numbers of callers.
    """
    found = [
        one
        for one in results.measurements
        if (one.system, one.loop) == (OURS, "closed") and one.layer != "in-process"
    ]
    least = min((one.batch_size for one in found), default=0)
    found = [one for one in found if one.batch_size == least]
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
        rows = math.ceil(len(axes.lines) / 2)
        axes.set_title("Requests answered a second, over concurrency", pad=8 + 13 * rows)
        axes.set_xlabel("requests at once")
        axes.grid(axis="y")
        axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
        return _note(picture, found)


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
            axes.set_yticks(range(len(order)), order, color=INK)
            axes.tick_params(length=0)
            axes.invert_yaxis()
            axes.set_xticks([])  # each bar has its figure
            axes.spines[["left", "bottom"]].set_visible(False)
            axes.set_title(title, x=0)
        return _note(picture, found, "; medians, lines: ranges")


@click.command(cls=Command)
@click.argument("results", type=click.Path(path_type=Path), default=Path("runs/bench.json"))
@click.option("--output", type=click.Path(path_type=Path), help="[default: charts/ beside it]")
def main(results: Path, output: Path | None) -> None:
    """Write the PNG of a results file of `carlarl bench run`."""
    picture, folder = concurrency(load(results)), output or results.parent / "charts"
    if picture is None:
        raise click.ClickException(f"{results}: measured with one number of callers only")
    folder.mkdir(parents=True, exist_ok=True)
    drawing.save(picture, folder / "concurrency.png")
    click.echo(folder / "concurrency.png")


if __name__ == "__main__":
    main()
