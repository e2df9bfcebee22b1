"""The gateway against the plain alternative: `python -m perf.studies.fast_path`.

Both sides run at once on this machine. `wrk` measures them in turn, several rounds each. Figures
are medians; compare the ratios, which are of the same run.
"""

from __future__ import annotations

import time

import click
import httpx

from perf.bench import gate
from perf.bench.command import heading, say, study
from perf.bench.gate import Case, Pairs
from perf.bench.tables import Figure, Table, p50, p99, rate, spread
from perf.load import closed_loop, processes
from perf.load.observations import body
from perf.load.target import Target
from perf.studies.memory import watch

ROWS: tuple[tuple[str, str, Case, Figure], ...] = (
    ("requests/s, 32 connections", "≥ 4", (32, 1), rate),
    ("p50 ms, 1 connection", "≤ 1.5", (1, 1), p50),
    ("observations/s, 8 connections, 32 a request", "≥ 1", (8, 32), lambda o: o.observations_per_s),
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
    with processes.gateway(path="/livez") as served, httpx.Client(base_url=served.url) as client:
        while client.post("/predict", json=body()).status_code != 200:
            time.sleep(0.01)
        return time.perf_counter() - began


def memory(requests: int) -> tuple[float, float, int]:
    """Give the MB of gateway and Triton after 10,000 requests, their growth, and the requests."""
    with processes.gateway() as served:
        first, *_, last = watch(served.url, served.pid, requests, warm=10_000)
    held, later = (one.gateway + one.triton for one in (first, last))
    return held, later - held, last.requests - first.requests


def cache(rounds: int, seconds: float) -> Table:
    """Compare the gateway with and without a cache, where inputs repeat and where they do not."""
    table = Table(["the cache (100 MB; off by default)", "ratio"])
    with processes.gateway() as without, processes.gateway(CACHE_BYTES="100000000") as cached:
        for what, vary in (("never", True), ("always", False)):
            ratios = []
            for _ in range(rounds):
                new, old = (
                    rate(closed_loop.run(Target(one.url), 32, seconds, vary=vary))
                    for one in (cached, without)
                )
                ratios.append(new / old)
            text = f"requests/s with a cache over without, inputs that {what} repeat"
            table.rows.append([text, spread(ratios)])
    return table


@study(rounds=5, seconds=5.0)
@click.option("--requests", default=200_000, show_default=True, help="For the memory's growth.")
def main(rounds: int, seconds: float, requests: int) -> None:
    """Measure, and write the tables."""
    pairs = compared(gate.pairs(rounds, seconds, say))
    say("starting time, memory, cache")
    starts = [start() for _ in range(rounds)]
    held, grown, sent = memory(requests)
    first = "seconds from `carlarl serve` to the first good answer"
    growth = f"MB that gateway and Triton grow by over {sent:,} requests"
    rows = [
        [first, spread(starts), "< 3"],
        [f"{growth}, after 10,000 (they hold {held:.0f})", f"{grown:+.2f}", "< 5"],
    ]
    note = "the load generator ran on the same cores"
    click.echo(heading("perf.studies.fast_path", note, rounds=rounds, seconds=seconds))
    for one in (pairs, Table(["what", "measured", "to reach"], rows), cache(rounds, seconds)):
        click.echo(one.markdown())


if __name__ == "__main__":
    main()
