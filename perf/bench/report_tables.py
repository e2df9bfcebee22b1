"""The tables of the page about a benchmark, as HTML."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape

from perf.bench import charts
from perf.bench.results import Measurement, Results


def callers(count: int) -> str:
    """Say how many callers there were."""
    return "1 caller" if count == 1 else f"{count} callers"


def number(measured: Sequence[Measurement], figure: str) -> str:
    """Give the median of a percentile in ms, or of requests a second for `rate`."""
    values = [
        one.requests_per_s if figure == "rate" else float(getattr(one.latency_ms, figure))
        for one in measured
    ]
    middle = statistics.median(values)
    return f"{middle:,.0f}" if middle >= 100 else f"{middle:.2f}"


def _table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Make a table; a row is its class and its cells."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f'<tr class="{kind}">' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
        for kind, cells in rows
    )
    return f'<div class="table"><table><tr>{top}</tr>{body}</table></div>'


def latency(results: Results) -> str:
    """Give the gateway's latency and rate under each load."""
    loads: dict[str, list[Measurement]] = {}
    for one in charts.ours(results):
        if one.layer == "gateway":
            batch = f", batch {one.batch_size}" if one.batch_size > 1 else ""
            loads.setdefault(charts.load_name(one) + batch, []).append(one)
    figures = ("p50", "p90", "p99", "p99_9", "max")
    rows = [
        (
            "",
            [
                name,
                *(number(repeats, figure) for figure in figures),
                number(repeats, "rate"),
                repeats[0].tool,
            ],
        )
        for name, repeats in loads.items()
    ]
    head = ["load", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "requests/s", "generator"]
    return _table(head, rows)


def peers(results: Results) -> str:
    """Give each system's latency and rate, for the numbers of callers that all had."""
    found: dict[str, dict[int, list[Measurement]]] = {}
    closed = [o for o in results.measurements if o.layer == "gateway" and o.loop == "closed"]
    for one in closed:
        if one.batch_size == min(o.batch_size for o in closed):
            found.setdefault(one.system, {}).setdefault(one.concurrency, []).append(one)
    counts = sorted(set.intersection(*(set(held) for held in found.values()))) if found else []
    head = ["system"]
    for count in counts:
        few = callers(count).replace(" ", "\N{NO-BREAK SPACE}")
        head += [f"{name}\N{NO-BREAK SPACE}ms, {few}" for name in ("p50", "p99")]
        head.append(f"requests/s, {few}")
    rows = []
    for name, held in found.items():
        cells = [name]
        for count in counts:
            cells += [number(held[count], figure) for figure in ("p50", "p99", "rate")]
        rows.append(("own" if name == "carlarl" else "", cells))
    return _table(head, rows)
