"""The picture of a benchmark: `python -m perf.bench.charts RESULTS.json`."""

import math
from pathlib import Path

import click
import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from perf.bench.command import Command
from perf.bench.results import Results, load
from perf.bench.tables import LAYERS, OURS, median, rate

MUTED, REST = "#5d6675", "#a9b1bd"
SERIES = ("#2463a6", "#d1702a", "#2b8c7d", "#a83f5b", "#7a5ba6", "#8b8f3a")
STYLE = Path(__file__).with_name("charts.mplstyle")
"""How the pictures of this project look: for `matplotlib.rc_context(fname=STYLE)`."""

_COLOURS = dict(zip(reversed(LAYERS), (SERIES[at] for at in (0, 3, 5, 4, 1, 2)), strict=True))


def concurrency(results: Results, path: Path) -> bool:
    """Draw requests a second over concurrency, a line for each layer, of the smallest batch.

    Write a PNG. Return False where the results have fewer than two numbers of callers.
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
        return False
    with mpl.rc_context(fname=STYLE):
        # Narrow, so that the text can be read on a telephone.
        picture = Figure(figsize=(4.9, 3.3), layout="constrained")
        FigureCanvasAgg(picture)
        axes = picture.subplots()
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
        tools = ", ".join(sorted({one.tool for one in found}))
        picture.supxlabel(f"Closed loop by {tools}", fontsize=7.5, color=MUTED, x=0.99, ha="right")
        picture.savefig(path)
    return True


@click.command(cls=Command)
@click.argument("results", type=click.Path(path_type=Path), default=Path("runs/bench.json"))
@click.option("--output", type=click.Path(path_type=Path), help="[default: charts/ beside it]")
def main(results: Path, output: Path | None) -> None:
    """Write the PNG of a results file of `carlarl bench run`."""
    path = (output or results.parent / "charts") / "concurrency.png"
    found = load(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not concurrency(found, path):
        raise click.ClickException(f"{results}: measured with one number of callers only")
    click.echo(path)


if __name__ == "__main__":
    main()
