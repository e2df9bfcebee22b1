"""The gateway against the plain alternative: `python -m perf.studies.fast_path`.

Both sides run at once on this machine. `wrk` measures them in turn, several rounds each. Figures
are medians; compare the ratios, which are of the same run.
"""

from __future__ import annotations

import time

import click
import httpx

from perf.bench import gate, machine
from perf.bench.gate import Case, Pairs
from perf.bench.request_forms import Say
from perf.bench.tables import Figure, Table, p50, p99, rate, spread
from perf.load import closed_loop, processes
from perf.load.observations import body
from perf.load.target import Target
from perf.studies import resident

ROWS: tuple[tuple[str, str, Case, Figure], ...] = (
    ("requests/s, 32 connections", "≥ 4", (32, 1), rate),
    ("p50 ms, 1 connection", "≤ 1.5", (1, 1), p50),
    (
        "observations/s, 8 connections, 32 a request",
        "≥ 1",
        (8, 32),
        lambda one: one.observations_per_s,
    ),
    ("p50 ms, 32 connections", "–", (32, 1), p50),
    ("p99 ms, 32 connections", "–", (32, 1), p99),
)


def compared(measured: Pairs) -> Table:
    """Show both sides, their ratios, and what is to be reached."""
    head = ["what", "gateway", "plain alternative", "ratio, median of pairs (range)", "to reach"]
    table = Table(head)
    for what, reach, case, figure in ROWS:
        sides = [spread([figure(pair[side]) for pair in measured[case]]) for side in (0, 1)]
        ratio = spread(gate.ratios(measured, case, figure))
        table.rows.append([what, *sides, ratio, reach])
    tails = spread([p99(ours) / p50(ours) for ours, _ in measured[32, 1]])
    table.rows.append(["p99 over p50, 32 connections", tails, "–", "–", "≤ 4"])
    return table


def start() -> float:
    """Give the seconds from starting `carlarl serve` to the first good answer."""
    began = time.perf_counter()
    with processes.gateway(path="/livez") as (url, _), httpx.Client(base_url=url) as client:
        while client.post("/predict", json=body()).status_code != 200:
            time.sleep(0.01)
        return time.perf_counter() - began


def memory(requests: int) -> tuple[float, float, int]:
    """Give the MB of gateway and Triton after 10,000 requests, their growth, and the requests."""
    with processes.gateway() as (url, pid):
        _drive(url, 10_000)
        before = resident.sample(pid, 0, 0)
        sent = _drive(url, requests)
        after = resident.sample(pid, 0, sent)
    first = before.gateway + before.triton
    return first, after.gateway + after.triton - first, sent


def _drive(url: str, requests: int) -> int:
    sent = 0
    while sent < requests:
        sent += closed_loop.run(Target(url), 32, 2, vary=True).requests
    return sent


def cache(rounds: int, seconds: float) -> Table:
    """Compare the gateway with and without a cache, where inputs repeat and where they do not."""
    table = Table(["the cache (100 MB; off by default)", "ratio"])
    with (
        processes.gateway() as (without, _),
        processes.gateway(CACHE_BYTES="100000000") as (cached, _),
    ):
        for what, vary in (("never", True), ("always", False)):
            ratios = []
            for _ in range(rounds):
                sides = (
                    rate(closed_loop.run(Target(url), 32, seconds, vary=vary))
                    for url in (cached, without)
                )
                ratios.append(next(sides) / next(sides))
            text = f"requests/s with a cache over without, inputs that {what} repeat"
            table.rows.append([text, spread(ratios)])
    return table


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(1))
@click.option("--requests", default=200_000, show_default=True, help="For the memory's growth.")
def main(rounds: int, seconds: float, requests: int) -> None:
    """Measure, and write the tables."""
    say: Say = lambda line: click.echo(line, err=True)  # noqa: E731
    pairs = compared(gate.pairs(rounds, seconds, say))
    say("starting time, memory, cache")
    starts = [start() for _ in range(rounds)]
    held, grown, sent = memory(requests)
    table = Table(["what", "measured", "to reach"])
    table.rows = [
        ["seconds from `carlarl serve` to the first good answer", spread(starts), "< 3"],
        [
            f"MB that gateway and Triton grow by over {sent:,} requests, after 10,000 "
            f"(they hold {held:.0f})",
            f"{grown:+.2f}",
            "< 5",
        ],
    ]
    click.echo(
        f"Command: `python -m perf.studies.fast_path --rounds {rounds} --seconds {seconds:g}`. "
        f"Medians, ranges in brackets. {machine.facts()}; the load generator ran on the same "
        "cores.\n"
    )
    for one in (pairs, table, cache(rounds, seconds)):
        click.echo(one.markdown())


if __name__ == "__main__":
    main()
