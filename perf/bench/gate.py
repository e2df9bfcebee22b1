"""Whether the gateway is as fast as it was: `python -m perf.bench.gate` (`make test-performance`).

Milliseconds depend on the machine, so the limits are ratios: the gateway against the plain
alternative (`perf.studies.peers.fastapi_app`), measured in turn by `wrk` on this machine. A
limit is the ratio in RESULTS.md with a margin that its spread never reached. So the gate finds a
request that takes half as long again, but not a few percent: for those there is `carlarl bench
compare` on a quiet machine.

Then every form of a request is measured against the best one: `perf.bench.request_forms`.
"""

import statistics
import sys
from dataclasses import dataclass

import click

from perf.bench.command import Command, Say, heading, say
from perf.bench.request_forms import check_forms
from perf.bench.tables import Figure, Table, p50, p99, rate, spread
from perf.load import closed_loop, processes
from perf.load.generator import LoadError
from perf.load.measurement import Measurement
from perf.load.target import Target

ROUNDS, SECONDS = 5, 1.0
CASES = ((32, 1), (1, 1), (8, 32))
"""Connections, and observations in a request."""

Case = tuple[int, int]
Pairs = dict[Case, list[tuple[Measurement, Measurement]]]
"""For each case the pairs of gateway and plain alternative, one after the other."""


def pairs(rounds: int, seconds: float, say: Say) -> Pairs:
    """Measure the gateway and the plain alternative in turn.

    Raises LoadError where `wrk` is missing or a request failed.
    """
    measured: Pairs = {case: [] for case in CASES}
    if not closed_loop.have_wrk():
        raise LoadError("wrk is missing: apt-get install wrk")
    with processes.gateway() as served, processes.plain_alternative() as plain:
        sides = (Target(served.url), Target(plain, system="fastapi-onnxruntime"))
        for turn in range(rounds):
            for case, found in measured.items():
                ours, theirs = (closed_loop.run(side, case[0], seconds, case[1]) for side in sides)
                if ours.errors or theirs.errors:
                    raise LoadError(f"requests failed: {ours.errors or theirs.errors}")
                found.append((ours, theirs))
                both = f"{rate(ours):,.0f}/s against {rate(theirs):,.0f}/s"
                say(f"round {turn + 1}: {case[0]} connections, {case[1]} observations: {both}")
    return measured


def ratios(measured: Pairs, case: Case, figure: Figure) -> list[float]:
    """Return the gateway's figure over the plain alternative's, of each pair."""
    return [figure(ours) / figure(theirs) for ours, theirs in measured[case]]


@dataclass(frozen=True)
class Limit:
    """A bound on the median ratio of a case; None for one that is only shown."""

    what: str
    case: Case
    figure: Figure
    bound: float | None = None
    at_least: bool = False

    def ratio(self, measured: Pairs) -> float:
        """Return the median of the pairs' ratios."""
        return statistics.median(ratios(measured, self.case, self.figure))

    def holds(self, ratio: float) -> bool:
        """Whether a ratio is within the bound."""
        if self.bound is None:
            return True
        return ratio >= self.bound if self.at_least else ratio <= self.bound

    def __str__(self) -> str:
        """Write the bound."""
        return "–" if self.bound is None else f"{'≥' if self.at_least else '≤'} {self.bound:g}"


LIMITS = (
    Limit("requests/s, 32 connections", (32, 1), rate, 3.0, at_least=True),
    Limit("p50 ms, 1 connection", (1, 1), p50, 2.5),
    Limit("requests/s, 8 connections, 32 observations", (8, 32), rate, 1.5, at_least=True),
    Limit("p50 ms, 32 connections", (32, 1), p50),
    Limit("p99 ms, 32 connections", (32, 1), p99),
)


@click.command(cls=Command)
def main() -> None:
    """Measure, say which limits hold, and fail where one does not."""
    measured = pairs(ROUNDS, SECONDS, say)
    slow = check_forms(say)
    table = Table(["what", "gateway", "plain alternative", "ratio of a pair", "limit", "it holds"])
    failed = False
    for limit in LIMITS:
        sides = zip(*measured[limit.case], strict=True)
        shown = [spread(list(map(limit.figure, side))) for side in sides]
        holds = limit.holds(limit.ratio(measured))
        failed |= not holds
        shown += [spread(ratios(measured, limit.case, limit.figure)), str(limit)]
        held = "–" if limit.bound is None else "yes" if holds else "no"
        table.rows.append([limit.what, *shown, held])
    click.echo(heading("perf.bench.gate"))
    click.echo(table.markdown())
    click.echo("\n".join(slow or ["Every form of a request is as fast as the best."]))
    sys.exit(failed or bool(slow))


if __name__ == "__main__":
    main()
