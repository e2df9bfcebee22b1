"""The picture of the peers."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perf.bench import drawing
from perf.bench.charts import loops
from perf.bench.drawing import INK, REST, SERIES
from perf.bench.results import Measurement, Results


def peers(results: Results) -> Figure | None:
    """Draw this gateway beside the peers: requests a second, and the latency of a lone caller."""
    found = [one for one in results.measurements if one.layer == "gateway" and one.loop == "closed"]
    names = list(dict.fromkeys(one.system for one in found))
    if len(names) < 2:
        return None
    shared = set.intersection(
        *({one.concurrency for one in found if one.system == name} for name in names)
    )
    batch = min(one.batch_size for one in found)
    found = [one for one in found if one.batch_size == batch and one.concurrency in shared]
    low, high = min(shared), max(shared)
    panels: list[tuple[str, int, Callable[[Measurement], float], bool]] = [
        (f"Requests a second, {high} callers", high, lambda one: one.requests_per_s, True),
        (
            f"Median latency in ms, {low} caller{'s' if low > 1 else ''}",
            low,
            lambda one: one.latency_ms.p50,
            False,
        ),
    ]
    with drawing.styled():
        figure, axes_of = drawing.new(2 * (0.3 * len(names) + 0.55) + 0.3, rows=2)
        for axes, (title, callers, figure_of, more_is_better) in zip(axes_of, panels, strict=True):
            values = {
                name: [figure_of(o) for o in found if (o.system, o.concurrency) == (name, callers)]
                for name in names
            }
            order = sorted(
                names, key=lambda name: statistics.median(values[name]), reverse=more_is_better
            )
            _ranked(axes, title, {name: values[name] for name in order})
        drawing.note(figure, f"{loops(found)}; medians, lines: ranges")
    return figure


def _ranked(axes: Axes, title: str, values: dict[str, list[float]]) -> None:
    most = max(max(found) for found in values.values())
    for place, (name, found) in enumerate(values.items()):
        middle = statistics.median(found)
        own = name == "carlarl"
        axes.barh(place, middle, 0.66, color=SERIES[0] if own else REST)
        axes.plot([min(found), max(found)], [place, place], color=INK, linewidth=1.1)
        text = f"{middle:,.0f}" if middle >= 100 else f"{middle:.2f}"
        at = max(max(found), middle) + most * 0.015
        axes.text(at, place, text, va="center", weight="bold" if own else "normal", size=8.5)
    axes.set_yticks(range(len(values)), list(values), color=INK)
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.set_xlim(0, most * 1.14)
    axes.set_xticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_title(title)
