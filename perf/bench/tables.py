"""Tables of a benchmark: one form for Markdown and for a terminal."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from perf.bench.results import Results
from perf.load.measurement import Measurement
from perf.load.target import fused

OURS = "carlarl"
LAYERS: dict[str, Callable[[Measurement], bool]] = {
    "in process": lambda one: one.layer == "in-process",
    "Triton HTTP, ensemble": lambda one: one.layer == "triton-http" and not _fused(one),
    "Triton gRPC, ensemble": lambda one: one.layer == "triton-grpc" and not _fused(one),
    "Triton gRPC, fused": lambda one: one.layer == "triton-grpc" and _fused(one),
    "Triton HTTP, fused": lambda one: one.layer == "triton-http" and _fused(one),
    "gateway, JSON": lambda one: one.layer == "gateway",
}
"""What was asked → whether a measurement is of it."""

Figure = Callable[[Measurement], float]
Loads = dict[tuple[int, str], dict[str, list[Measurement]]]
"""Batch size and load → layer → repeats."""


@dataclass
class Table:
    """Rows of cells below a head."""

    head: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    title: str = ""

    def markdown(self) -> str:
        """Return it as Markdown."""
        lines = [f"{self.title}\n"] if self.title else []
        lines += [f"| {' | '.join(self.head)} |", "|---" * len(self.head) + "|"]
        cells = ([cell.replace("|", "/") for cell in row] for row in self.rows)
        return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in cells)]) + "\n"


def rate(one: Measurement) -> float:
    """Return requests a second."""
    return one.requests_per_s


def p50(one: Measurement) -> float:
    """Return the median latency in milliseconds."""
    return one.latency_ms.p50


def p99(one: Measurement) -> float:
    """Return the latency in milliseconds that one request in a hundred exceeds."""
    return one.latency_ms.p99


def median(measured: Iterable[Measurement], figure: Figure) -> float:
    """Return the median of the repeats."""
    return statistics.median(map(figure, measured))


def spread(values: Sequence[float], digits: int | None = None) -> str:
    """Return median and range; with two digits below 100 and none above, unless told otherwise."""
    low, middle, high = min(values), statistics.median(values), max(values)
    if digits is None:
        digits = 0 if middle >= 100 else 2
    return f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def short(value: float) -> str:
    """Write a figure with three digits, or with all before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def callers(count: int) -> str:
    """Say how many callers there were."""
    return "1 caller" if count == 1 else f"{count} callers"


def load_name(one: Measurement) -> str:
    """Name a load in a few words."""
    return callers(one.concurrency) if one.loop == "closed" else f"{one.asked_per_s:g}/s due"


def tables(results: Results) -> list[Table]:
    """Show the layers of each load side by side, and the parts of a lone request's time."""
    loads = by_load(results.measurements)
    held = [name for name in LAYERS if any(name in layers for layers in loads.values())]
    policy = ", ".join({f"{one.version} {one.format}" for one in results.measurements})
    table = Table(["batch", "load", *held], title=f"{policy}: p50 / p99 ms, requests/s")
    title = "who owns a lone request's p50, ms"
    parts = Table(["", "the policy", "Triton", "the gateway", "together"], title=title)
    for (batch, load), layers in loads.items():
        cells = [_cell(layers[name]) if name in layers else "–" for name in held]
        table.rows.append([str(batch), load, *cells])
        if load == callers(1) and (owners := lone_request(layers)):
            figures = [f"{ms:.3f}" for ms in (*owners, sum(owners))]
            parts.rows.append([f"{policy}, batch {batch}", *figures])
    return [one for one in (table, parts) if one.rows]


def by_load(measured: Iterable[Measurement]) -> Loads:
    """Group what was measured of this service; the policy alone is beside every load."""
    loads: Loads = {}
    for one in sorted(measured, key=lambda one: one.layer == "in-process"):
        layer = next(name for name, holds in LAYERS.items() if holds(one))
        beside = [layers for (batch, _), layers in loads.items() if batch == one.batch_size]
        if one.system == OURS:
            if one.layer != "in-process" or not beside:
                beside = [loads.setdefault((one.batch_size, load_name(one)), {})]
            for layers in beside:
                layers.setdefault(layer, []).append(one)
    return loads


def lone_request(layers: Mapping[str, list[Measurement]]) -> list[float]:
    """Return the p50 that policy, Triton and gateway have each of one request; empty if unknown."""
    ways = ("in process", "Triton HTTP, fused", "gateway, JSON")
    if not all(way in layers for way in ways):
        return []
    policy, triton, whole = (median(layers[way], p50) for way in ways)
    return [policy, triton - policy, whole - triton]


def systems(results: Results) -> Table:
    """Show this gateway beside its peers: medians, ranges, and medians of the rounds' ratios."""
    found: dict[tuple[str, int], list[Measurement]] = {}
    for one in results.measurements:
        found.setdefault((one.system, one.concurrency), []).append(one)
    counts = sorted({count for system, count in found if system == OURS})
    if not counts:
        return Table(["system"])
    low, high = counts[0], counts[-1]
    columns: list[tuple[str, int, Figure]] = [
        (f"requests/s, {callers(high)}", high, rate),
        (f"p50 ms, {callers(high)}", high, p50),
        (f"p99 ms, {callers(high)}", high, p99),
        *([(f"p50 ms, {callers(low)}", low, p50)] if low < high else []),
    ]
    table = Table(["system", *(cell for title, _, _ in columns for cell in (title, "ratio"))])
    failed = dict(line.split(": ", 1) for line in results.left_out if ": " in line)
    measured = [name for name in dict.fromkeys(name for name, _ in found) if name not in failed]
    for name in (name for name in measured if (name, low) in found and (name, high) in found):
        cells = [f"**{name}**" if name == OURS else _title(results, name)]
        for _, count, figure in columns:
            values, ours = ([figure(one) for one in found[who, count]] for who in (name, OURS))
            ratios = [value / other for value, other in zip(values, ours, strict=False)]
            cells += [spread(values), f"{statistics.median(ratios):.2f}"]
        table.rows.append(cells)
    for name in failed:
        if name in results.settings:
            reason = f"not measured: {failed[name]}"
            table.rows.append([_title(results, name), reason, *[""] * (len(table.head) - 2)])
    return table


def _title(results: Results, name: str) -> str:
    return f"{name} ({results.settings[name]})" if name in results.settings else name


def _cell(measured: Sequence[Measurement]) -> str:
    latency = f"{short(median(measured, p50))} / {short(median(measured, p99))}"
    return f"{latency} ms, {median(measured, rate):,.0f}/s"


def _fused(one: Measurement) -> bool:
    return one.target.startswith(fused(""))
