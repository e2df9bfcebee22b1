"""The gateway against the plain alternative: `python -m perf.studies.fast_path`.

Both sides run at once on this machine and are measured in turn with `wrk`, several rounds each; the
figures are medians, and what is compared are ratios of the same run.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import httpx

from perf.bench import machine
from perf.bench.results import Measurement
from perf.load import closed_loop, processes
from perf.load.observations import body
from perf.load.target import Target
from perf.studies import resident

CASES = ((32, 1), (1, 1), (8, 32))
"""Connections, and observations in a request."""

Case = tuple[int, int]
Pairs = dict[Case, list[tuple[Measurement, Measurement]]]
"""For each case the pairs of gateway and plain alternative, one after the other."""

Say = Callable[[str], None]
Figure = Callable[[Measurement], float]


def pairs(rounds: int, seconds: float, say: Say) -> Pairs:
    """Measure the gateway and the plain alternative in turn.

    Raises closed_loop.LoadError where `wrk` is missing or a request failed.
    """
    measured: Pairs = {case: [] for case in CASES}
    with processes.gateway() as (gateway, _), processes.plain_alternative() as (plain, _):
        sides = (Target(gateway), Target(plain, system="fastapi-onnxruntime"))
        for turn in range(rounds):
            for case, found in measured.items():
                ours, theirs = (load(side, *case, seconds) for side in sides)
                found.append((ours, theirs))
                say(
                    f"round {turn + 1}: {case[0]} connections, {case[1]} obs: gateway "
                    f"{ours.requests_per_s:.0f}/s, p50 {ours.latency_ms.p50:.2f}; plain "
                    f"{theirs.requests_per_s:.0f}/s, p50 {theirs.latency_ms.p50:.2f}"
                )
    return measured


def load(target: Target, connections: int, batch_size: int, seconds: float) -> Measurement:
    """Load with `wrk`; raises closed_loop.LoadError where it is missing or a request failed."""
    if not closed_loop.have_wrk():
        raise closed_loop.LoadError("wrk is missing: apt-get install wrk")
    measurement = closed_loop.run(target, connections, seconds, batch_size)
    if measurement.errors:
        raise closed_loop.LoadError(f"{target.url}: requests failed: {measurement.errors}")
    return measurement


def ratios(measured: Pairs, case: Case, figure: Figure) -> list[float]:
    """Give the gateway's figure over the plain alternative's, of each pair."""
    return [figure(ours) / figure(theirs) for ours, theirs in measured[case]]


def rate(measurement: Measurement) -> float:
    """Give requests a second."""
    return measurement.requests_per_s


def p50(measurement: Measurement) -> float:
    """Give the median latency in milliseconds."""
    return measurement.latency_ms.p50


def p99(measurement: Measurement) -> float:
    """Give the latency in milliseconds that one in a hundred exceeds."""
    return measurement.latency_ms.p99


def table(measured: Pairs) -> list[str]:
    """Give lines of a Markdown table."""

    def row(what: str, reach: str, case: Case, figure: Figure) -> str:
        ours, theirs = ([figure(pair[side]) for pair in measured[case]] for side in (0, 1))
        of_pairs = ratios(measured, case, figure)
        return (
            f"| {what} | {spread(ours)} | {spread(theirs)} "
            f"| {statistics.median(of_pairs):.2f} ({min(of_pairs):.2f}–{max(of_pairs):.2f}) "
            f"| {reach} |"
        )

    tails = [p99(ours) / p50(ours) for ours, _ in measured[(32, 1)]]
    return [
        "| what | gateway | plain alternative | ratio, median of pairs (range) | to reach |",
        "|---|---|---|---|---|",
        row("requests/s, 32 connections", "≥ 4", (32, 1), rate),
        row("p50 ms, 1 connection", "≤ 1.5", (1, 1), p50),
        row(
            "observations/s, 8 connections, 32 a request",
            "≥ 1",
            (8, 32),
            lambda one: one.observations_per_s,
        ),
        row("p50 ms, 32 connections", "–", (32, 1), p50),
        row("p99 ms, 32 connections", "–", (32, 1), p99),
        f"| p99 over p50, 32 connections | {spread(tails)} | – | – | ≤ 4 |",
    ]


def start(rounds: int, say: Say) -> list[float]:
    """Give the seconds from starting `carlarl serve` to the first good answer, each round."""
    taken = []
    for turn in range(rounds):
        began = time.perf_counter()
        with processes.gateway(path="/livez") as (url, _), httpx.Client(base_url=url) as client:
            while client.post("/predict", json=body()).status_code != 200:
                time.sleep(0.01)
            taken.append(time.perf_counter() - began)
        say(f"start {turn + 1}: {taken[-1]:.2f} s")
    return taken


def memory(requests: int, say: Say) -> tuple[float, float, int]:
    """Give the MB of gateway and Triton after 10,000 requests, their growth, and the requests."""
    with processes.gateway() as (url, pid):
        began = time.monotonic()
        _drive(url, 10_000)
        before = resident.sample(pid, began, 0)
        sent = _drive(url, requests)
        after = resident.sample(pid, began, sent)
    first = before.gateway + before.triton
    grown = after.gateway + after.triton - first
    say(f"memory: {first:.1f} MB, {grown:+.2f} MB over {sent} requests")
    return first, grown, sent


def _drive(url: str, requests: int) -> int:
    sent = 0
    while sent < requests:
        sent += closed_loop.run(Target(url), 32, 2, vary=True).requests
    return sent


def cache(rounds: int, seconds: float, say: Say) -> list[str]:
    """Measure the gateway with and without a cache, where inputs repeat and where they do not."""
    ratios: dict[bool, list[float]] = {True: [], False: []}
    with (
        processes.gateway() as (without, _),
        processes.gateway(CACHE_BYTES="100000000") as (with_cache, _),
    ):
        for _ in range(rounds):
            for vary in (True, False):
                pair = [
                    closed_loop.run(Target(url), 32, seconds, vary=vary)
                    for url in (with_cache, without)
                ]
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


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(1))
@click.option("--requests", default=200_000, show_default=True, help="For the memory's growth.")
@click.option("--output", type=click.Path(path_type=Path), help="Markdown, else standard output.")
def main(rounds: int, seconds: float, requests: int, output: Path | None) -> None:
    """Measure, and write the tables."""

    def say(line: str) -> None:
        click.echo(line, err=True)

    compared = table(pairs(rounds, seconds, say))
    starts = start(rounds, say)
    held, grown, sent = memory(requests, say)
    cached = cache(rounds, seconds, say)
    lines = [
        f"Command: `python -m perf.studies.fast_path --rounds {rounds} --seconds {seconds:g}`. "
        f"Medians, ranges in brackets. {machine.facts()}; "
        "the load generator ran on the same cores.",
        "",
        *compared,
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
