"""The gateway against the plain alternative: `python -m perf.fast_path`.

Both sides run at once on this machine and are measured in turn with `wrk`, several rounds each; the
figures are medians, and what is compared are ratios of the same run.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import httpx
import psutil

from perf import processes, wrk

CASES = ((32, 1), (1, 1), (8, 32))
"""Connections, and observations in a request."""

Say = Callable[[str], None]


def compare(rounds: int, seconds: float, say: Say) -> list[str]:
    """Measure both sides in turn; gives lines of a Markdown table."""
    loads: dict[tuple[str, int, int], list[wrk.Load]] = {}
    with processes.gateway() as (gateway, _), processes.plain_alternative() as (plain, _):
        for turn in range(rounds):
            for connections, rows in CASES:
                for name, url in (("gateway", gateway), ("plain", plain)):
                    load = wrk.run(url, connections, seconds, rows)
                    loads.setdefault((name, connections, rows), []).append(load)
                    say(
                        f"round {turn + 1}: {name}, {connections} connections, {rows} obs: "
                        f"{load.requests_per_s:.0f}/s, p50 {load.p50_ms:.2f}, p99 {load.p99_ms:.2f}"
                    )

    def side(name: str, case: tuple[int, int], figure: Callable[[wrk.Load], float]) -> list[float]:
        return [figure(load) for load in loads[(name, *case)]]

    def row(
        what: str, reach: str, case: tuple[int, int], figure: Callable[[wrk.Load], float]
    ) -> str:
        ours, theirs = side("gateway", case, figure), side("plain", case, figure)
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        return (
            f"| {what} | {spread(ours)} | {spread(theirs)} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) | {reach} |"
        )

    tails = side("gateway", (32, 1), lambda load: load.p99_ms / load.p50_ms)
    return [
        "| what | gateway | plain alternative | ratio, median of pairs (range) | to reach |",
        "|---|---|---|---|---|",
        row("requests/s, 32 connections", "≥ 4", (32, 1), lambda load: load.requests_per_s),
        row("p50 ms, 1 connection", "≤ 1.5", (1, 1), lambda load: load.p50_ms),
        row(
            "observations/s, 8 connections, 32 a request",
            "≥ 1",
            (8, 32),
            lambda load: load.requests_per_s * 32,
        ),
        row("p50 ms, 32 connections", "–", (32, 1), lambda load: load.p50_ms),
        row("p99 ms, 32 connections", "–", (32, 1), lambda load: load.p99_ms),
        f"| p99 over p50, 32 connections | {spread(tails)} | – | – | ≤ 4 |",
    ]


def start(rounds: int, say: Say) -> list[float]:
    """Give the seconds from starting `carlarl serve` to the first good answer, each round."""
    taken = []
    for turn in range(rounds):
        began = time.perf_counter()
        with processes.gateway(path="/livez") as (url, _), httpx.Client(base_url=url) as client:
            while client.post("/predict", json=wrk.body()).status_code != 200:
                time.sleep(0.01)
            taken.append(time.perf_counter() - began)
        say(f"start {turn + 1}: {taken[-1]:.2f} s")
    return taken


def memory(requests: int, say: Say) -> tuple[float, float, int]:
    """Give the MB of gateway and Triton after 10,000 requests, their growth, and the requests."""
    with processes.gateway() as (url, pid):
        _drive(url, 10_000)
        first = resident(pid)
        sent = _drive(url, requests)
        grown = resident(pid) - first
    say(f"memory: {first:.1f} MB, {grown:+.2f} MB over {sent} requests")
    return first, grown, sent


def _drive(url: str, requests: int) -> int:
    sent = 0
    while sent < requests:
        sent += wrk.run(url, 32, 2, vary=True).requests
    return sent


def resident(pid: int) -> float:
    """Give the MB that a process and all below it hold: their proportional set size."""
    tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    total: int = sum(process.memory_full_info().pss for process in tree)
    return total / 1e6


def cache(rounds: int, seconds: float, say: Say) -> list[str]:
    """Measure the gateway with and without a cache, where inputs repeat and where they do not."""
    ratios: dict[bool, list[float]] = {True: [], False: []}
    with (
        processes.gateway() as (without, _),
        processes.gateway(CACHE_BYTES="100000000") as (with_cache, _),
    ):
        for _ in range(rounds):
            for vary in (True, False):
                pair = [wrk.run(url, 32, seconds, vary=vary) for url in (with_cache, without)]
                ratios[vary].append(pair[0].requests_per_s / pair[1].requests_per_s)
                say(f"cache, inputs {'vary' if vary else 'repeat'}: {ratios[vary][-1]:.3f}")
    return [
        f"| requests/s with a cache over without, inputs {what} | {spread(ratios[vary])} |"
        for what, vary in (("that never repeat", True), ("that always repeat", False))
    ]


def spread(values: Sequence[float]) -> str:
    """Give median and range."""
    digits = 0 if statistics.median(values) >= 100 else 2
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def machine() -> str:
    """Name the processor, the cores and the software that the figures depend on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=processes.ROOT
    ).stdout.strip()
    return (
        f"{psutil.cpu_count()} cores of {model}, Python {platform.python_version()}, "
        f"commit {commit or 'unknown'}; the load generator ran on the same cores."
    )


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(1))
@click.option("--requests", default=200_000, show_default=True, help="For the memory's growth.")
@click.option("--output", type=click.Path(path_type=Path), help="Markdown, else standard output.")
def main(rounds: int, seconds: float, requests: int, output: Path | None) -> None:
    """Measure, and write the tables."""

    def say(line: str) -> None:
        click.echo(line, err=True)

    table = compare(rounds, seconds, say)
    starts = start(rounds, say)
    held, grown, sent = memory(requests, say)
    cached = cache(rounds, seconds, say)
    lines = [
        f"Command: `python -m perf.fast_path --rounds {rounds} --seconds {seconds:g}`. "
        f"Medians, ranges in brackets. {machine()}",
        "",
        *table,
        "",
        "| what | measured | to reach |",
        "|---|---|---|",
        f"| seconds from `carlarl serve` to the first good answer | {spread(starts)} | < 3 |",
        f"| MB that gateway and Triton grow by over {sent:,} requests, after 10,000 "
        f"(they hold {held:.0f}) | {grown:+.2f} | < 5 |",
        "",
        "| the cache (100 MB; off by default) | ratio |",
        "|---|---|",
        *cached,
    ]
    text = "\n".join(lines) + "\n"
    if output is None:
        click.echo(text)
    else:
        output.write_text(text)
    sys.stderr.flush()


if __name__ == "__main__":
    main()
