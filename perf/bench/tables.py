"""A benchmark as tables for a terminal: the layers side by side."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from rich import box
from rich.table import Table

from gateway.triton import FUSED
from perf.bench.comparison import short
from perf.bench.results import Measurement, Results

COLUMNS: dict[str, Callable[[Measurement], bool]] = {
    "in process": lambda one: one.layer == "in-process",
    "Triton HTTP, ensemble": lambda one: one.layer == "triton-http" and not _fused(one),
    "Triton gRPC, ensemble": lambda one: one.layer == "triton-grpc" and not _fused(one),
    "Triton gRPC, fused": lambda one: one.layer == "triton-grpc" and _fused(one),
    "Triton HTTP, fused": lambda one: one.layer == "triton-http" and _fused(one),
    "gateway, JSON": lambda one: one.layer == "gateway",
}

Load = tuple[str, str, int, str]


def _fused(one: Measurement) -> bool:
    return one.target.startswith(FUSED)


def tables(results: Results, *, markdown: bool = False) -> list[Table]:
    """Give the layers of each load side by side, and the owners of a lone request's time."""
    style, gap = (box.MARKDOWN, " ms, ") if markdown else (box.SIMPLE_HEAD, "\n")
    loads = _loads(results)
    held = [name for name in COLUMNS if any(name in cells for cells in loads.values())]
    layers: dict[str, Table] = {}
    for (version, form, batch, load), cells in loads.items():
        title = f"{version} {form}: p50 / p99 ms, requests/s"
        table = layers.setdefault(title, Table("batch", "load", *held, title=title, box=style))
        row = [_cell(cells[name], gap) if name in cells else "–" for name in held]
        table.add_row(str(batch), load, *row)
    owners = _owners(loads, style)
    return [*layers.values(), *([owners] if owners.row_count else [])]


def _loads(results: Results) -> dict[Load, dict[str, list[Measurement]]]:
    """Group by load, then by column; the floor, which has one caller, is in every load."""
    loads: dict[Load, dict[str, list[Measurement]]] = {}
    floors: dict[tuple[str, str, int], list[Measurement]] = {}
    for one in results.measurements:
        key = (one.version, one.format, one.batch_size)
        if one.layer == "in-process":
            floors.setdefault(key, []).append(one)
            continue
        callers = "1 caller" if one.concurrency == 1 else f"{one.concurrency} callers"
        load = callers if one.loop == "closed" else f"{one.asked_per_s:g}/s due"
        column = next(name for name, holds in COLUMNS.items() if holds(one))
        loads.setdefault((*key, load), {}).setdefault(column, []).append(one)
    for (version, form, batch), measured in floors.items():
        key = (version, form, batch)
        found = [cells for load, cells in loads.items() if load[:3] == key]
        for cells in found or [loads.setdefault((*key, "1 caller"), {})]:
            cells["in process"] = measured
    return loads


def _owners(loads: dict[Load, dict[str, list[Measurement]]], style: box.Box) -> Table:
    """Give what each layer adds to the p50 of a request that is alone."""
    title = "who owns a lone request's p50, ms"
    table = Table("", "the policy", "Triton", "the gateway", "together", title=title, box=style)
    for (version, form, batch, load), cells in loads.items():
        ways = ("in process", "Triton HTTP, fused", "gateway, JSON")
        if load != "1 caller" or not all(way in cells for way in ways):
            continue
        policy, triton, whole = (_median(cells[way], _p50) for way in ways)
        parts = policy, triton - policy, whole - triton, whole
        table.add_row(f"{version} {form}, batch {batch}", *(f"{part:.3f}" for part in parts))
    return table


def _cell(measured: Sequence[Measurement], gap: str) -> str:
    p50, p99 = _median(measured, _p50), _median(measured, lambda one: one.latency_ms.p99)
    rate = _median(measured, lambda one: one.requests_per_s)
    return f"{short(p50)} / {short(p99)}{gap}{rate:,.0f}/s"


def _p50(one: Measurement) -> float:
    return one.latency_ms.p50


def _median(measured: Sequence[Measurement], figure: Callable[[Measurement], float]) -> float:
    return statistics.median(map(figure, measured))
