"""The pictures of a benchmark, each from its results."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from perf.bench import drawing
from perf.bench.drawing import INK, PAPER, SERIES
from perf.bench.results import Measurement, MemorySample, Results, histogram

LAYERS = {
    "in-process": "policy alone, in process",
    "triton-http": "Triton, HTTP",
    "triton-grpc": "Triton, gRPC",
    "gateway": "gateway, JSON",
}


_COLOURS = {
    "gateway, JSON": SERIES[0],
    "Triton, HTTP, ensemble": SERIES[1],
    "policy alone, in process": SERIES[2],
    "Triton, HTTP, fused model": SERIES[3],
    "Triton, gRPC, ensemble": SERIES[4],
    "Triton, gRPC, fused model": SERIES[5],
}


def loops(measured: Iterable[Measurement]) -> str:
    """Say which loads measurements come from."""
    kinds = sorted({(one.loop, one.tool) for one in measured})
    text = "; ".join(
        f"{loop} loop: {', '.join(tool for kind, tool in kinds if kind == loop)}"
        for loop in dict.fromkeys(loop for loop, _ in kinds)
    )
    return text[:1].upper() + text[1:]


def ours(results: Results) -> list[Measurement]:
    """Give what was measured of this service, in the version and format that comes first."""
    found = [one for one in results.measurements if one.system == "carlarl"]
    main = [one for one in found if one.layer == "gateway"] or found
    return [one for one in found if (one.version, one.format) == (main[0].version, main[0].format)]


def median(measured: Iterable[Measurement], figure: Callable[[Measurement], float]) -> float:
    """Give the median of the repeats."""
    return statistics.median(figure(one) for one in measured)


def latency(results: Results) -> Figure | None:
    """Draw the gateway's latency over percentiles, for each load of the smallest batch."""
    found = [one for one in ours(results) if one.layer == "gateway" and one.histogram]
    if not found:
        return None
    smallest = min(one.batch_size for one in found)
    loads: dict[str, list[Measurement]] = {}
    for one in sorted(found, key=lambda one: (one.loop, one.concurrency, one.asked_per_s or 0)):
        if one.batch_size == smallest:
            loads.setdefault(load_name(one), []).append(one)
    with drawing.styled():
        figure, (axes,) = drawing.new(3.5)
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
        axes.set_xticks(
            [at for at in ticks if at <= furthest], [ticks[at] for at in ticks if at <= furthest]
        )
        axes.set_xlim(0, furthest)
        axes.set_yscale("log")
        _plain(axes)
        axes.set_title("Latency of POST /predict by percentile, ms")
        axes.set_xlabel("percentile of requests")
        axes.grid(axis="both", which="major")
        axes.legend(loc="lower right")
        drawing.note(figure, loops(one for repeats in loads.values() for one in repeats))
    return figure


def load_name(one: Measurement) -> str:
    """Name a load in a few words."""
    if one.loop == "open":
        return f"open loop, {one.asked_per_s:,.0f}/s due"
    return f"closed loop, {one.concurrency} caller{'s' if one.concurrency > 1 else ''}"


def _plain(axes: Axes) -> None:
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", which="minor", length=0)


def _lines(
    title: str,
    label: str,
    lines: dict[str, dict[int, float]],
    measured: Sequence[Measurement],
    logarithmic: bool = False,
) -> Figure | None:
    lines = {name: points for name, points in lines.items() if points}
    places = sorted({place for points in lines.values() for place in points})
    if len(places) < 2:
        return None
    with drawing.styled():
        figure, (axes,) = drawing.new(3.3)
        for name, points in lines.items():
            xs = sorted(points)
            ys = [points[x] for x in xs]
            axes.plot(xs, ys, "o-", markersize=4.5, color=_COLOURS[name], label=name)
        axes.set_xscale("log", base=2)
        axes.set_xticks(places, [str(place) for place in places])
        axes.minorticks_off()
        if logarithmic:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.margins(x=0.04)
        axes.set_title(title, pad=8 + 13 * math.ceil(len(lines) / 2))
        axes.set_xlabel(label)
        axes.grid(axis="y")
        axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
        drawing.note(figure, loops(measured))
    return figure


def _closed(results: Results) -> list[Measurement]:
    return [one for one in ours(results) if one.loop == "closed"]


def _series(
    measured: Sequence[Measurement],
    place: Callable[[Measurement], int],
    value: Callable[[Measurement], float],
) -> dict[str, dict[int, float]]:
    groups: dict[str, dict[int, list[Measurement]]] = {}
    for one in sorted(measured, key=lambda one: list(LAYERS).index(one.layer)):
        groups.setdefault(layer_name(one), {}).setdefault(place(one), []).append(one)
    return {
        name: {at: median(repeats, value) for at, repeats in points.items()}
        for name, points in groups.items()
    }


def layer_name(one: Measurement) -> str:
    """Name what a measurement asked."""
    kind = ""
    if one.layer.startswith("triton"):
        kind = ", fused model" if "fused" in one.target else ", ensemble"
    return LAYERS[one.layer] + kind


def concurrency(results: Results) -> Figure | None:
    """Draw requests a second over concurrency, of the smallest batch."""
    found = [one for one in _closed(results) if one.layer != "in-process"]
    if not found:
        return None
    smallest = min(one.batch_size for one in found)
    found = [one for one in found if one.batch_size == smallest]
    title = "Requests answered a second, over concurrency"
    lines = _series(found, lambda one: one.concurrency, lambda one: one.requests_per_s)
    return _lines(title, "requests at once", lines, found)


def batches(results: Results) -> Figure | None:
    """Draw observations a second over batch size, each layer at its highest concurrency."""
    found = _closed(results)
    if not found:
        return None
    most = {one.layer: 0 for one in found}
    for one in found:
        most[one.layer] = max(most[one.layer], one.concurrency)
    found = [one for one in found if one.concurrency == most[one.layer]]
    title = "Observations answered a second, over batch size"
    lines = _series(found, lambda one: one.batch_size, lambda one: one.observations_per_s)
    return _lines(title, "observations in a request", lines, found, logarithmic=True)


def parts(results: Results) -> dict[str, list[tuple[str, float]]]:
    """Split the median of a lone request among its owners, in ms; empty if it can't be."""
    alone = [one for one in _closed(results) if one.concurrency == 1]
    if not alone:
        return {}
    smallest = min(one.batch_size for one in alone)
    medians = {
        name: median(
            (one for one in alone if layer_name(one) == name), lambda one: one.latency_ms.p50
        )
        for name in dict.fromkeys(
            layer_name(one)
            for one in sorted(alone, key=lambda one: list(LAYERS).index(one.layer))
            if one.batch_size == smallest
        )
    }
    floor, whole = medians.get(LAYERS["in-process"]), medians.get(LAYERS["gateway"])
    direct = medians.get(LAYERS["triton-http"] + ", fused model")
    if floor is None or whole is None or direct is None:
        return {}
    bars = {LAYERS["in-process"]: [("policy", floor)]}
    for name, value in medians.items():
        if name.startswith("Triton"):
            bars[name] = [("policy", floor), ("Triton", max(0.0, value - floor))]
    through = min(direct, whole)
    bars[LAYERS["gateway"]] = [
        ("policy", floor),
        ("Triton", max(0.0, through - floor)),
        ("gateway", whole - through),
    ]
    return bars


def layers(results: Results) -> Figure | None:
    """Draw where a lone request's time goes, a stacked bar for each way to ask."""
    bars = parts(results)
    if not bars:
        return None
    owners = list(dict.fromkeys(owner for bar in bars.values() for owner, _ in bar))
    colours = dict(zip(owners, (SERIES[2], SERIES[0], SERIES[1]), strict=False))
    longest = max(sum(width for _, width in bar) for bar in bars.values())
    with drawing.styled():
        figure, (axes,) = drawing.new(0.42 * len(bars) + 1.5)
        for place, bar in enumerate(bars.values()):
            left = 0.0
            for owner, width in bar:
                axes.barh(place, width, 0.62, left, color=colours[owner], label=owner)
                if width > longest * 0.09:
                    middle = left + width / 2
                    text = f"{width:.2f}"
                    axes.text(middle, place, text, ha="center", va="center", color=PAPER, size=8)
                left += width
            text = f"{left:.2f}" if left >= 0.1 else f"{left:.3f}"
            axes.text(left + longest * 0.015, place, f"{text} ms", va="center", weight="bold")
        axes.set_yticks(range(len(bars)), list(bars), color=INK)
        axes.tick_params(length=0)
        axes.invert_yaxis()
        axes.set_xlim(0, longest * 1.16)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_xticks([])
        axes.set_title("A lone request's time, median ms", pad=26, x=0)
        handles, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        axes.legend(
            unique.values(),
            unique,
            ncols=3,
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            borderaxespad=0.2,
            handlelength=1,
            handleheight=1,
            columnspacing=1.4,
        )
        drawing.note(figure, loops(one for one in _closed(results) if one.concurrency == 1))
    return figure


def memory(samples: Sequence[MemorySample]) -> Figure:
    """Draw what gateway, Triton and /dev/shm hold over the requests of a run."""
    thousands = [sample.requests / 1000 for sample in samples]
    with drawing.styled():
        figure, rows = drawing.new(4.6, rows=3, shared=True)
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
        drawing.note(figure, "Without mapped files; closed loop, 32 callers")
    return figure
