"""Whether the gateway is as fast as it was: `python -m perf.gate`, or `make test-performance`.

Milliseconds depend on the machine, so what is held are ratios: the gateway against the plain
alternative (`perf.peers.fastapi_onnxruntime`), measured in turn on this machine. A limit is the
ratio measured in RESULTS.md with a margin that its spread never came near; so it catches a request
that became half as fast again, not one of a few percent: for those, `carlarl bench
--compare-baseline` on a quiet machine.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

import click

from perf import closed_loop, fast_path, processes
from perf.generator import GeneratorError
from perf.machine import facts
from perf.studies.request_forms.study import check_forms

ROUNDS, SECONDS = 5, 1.0


@dataclass(frozen=True)
class Limit:
    """A bound on the median ratio of a case."""

    what: str
    case: fast_path.Case
    figure: fast_path.Figure
    bound: float
    at_least: bool

    def ratio(self, measured: fast_path.Pairs) -> float:
        """Give the median of the pairs' ratios."""
        return statistics.median(fast_path.ratios(measured, self.case, self.figure))

    def holds(self, ratio: float) -> bool:
        """Whether a ratio is within the bound."""
        return ratio >= self.bound if self.at_least else ratio <= self.bound

    def __str__(self) -> str:
        """Name it with its bound."""
        return f"{self.what}, ratio {'≥' if self.at_least else '≤'} {self.bound:g}"


LIMITS = (
    Limit("requests/s, 32 connections", (32, 1), fast_path.rate, 3.0, at_least=True),
    Limit("p50 ms, 1 connection", (1, 1), fast_path.p50, 2.5, at_least=False),
    Limit(
        "requests/s, 8 connections, 32 observations", (8, 32), fast_path.rate, 1.5, at_least=True
    ),
)


def gate(say: Callable[[str], None]) -> dict[Limit, float]:
    """Measure once; gives the ratio of each limit."""
    measured = fast_path.pairs(ROUNDS, SECONDS, say)
    return {limit: limit.ratio(measured) for limit in LIMITS}


@click.command()
@click.option("--times", default=1, show_default=True, type=click.IntRange(1))
def main(times: int) -> None:
    """Measure, say which limits hold, and fail where one does not.

    With --times, measure so often and say how often each failed.
    """
    runs = []
    try:
        for turn in range(times):
            runs.append(gate(lambda line: click.echo(line, err=True)))
            told = ", ".join(f"{limit.what} {ratio:.2f}" for limit, ratio in runs[-1].items())
            click.echo(f"run {turn + 1} of {times}: {told}", err=True)
        slow = check_forms(lambda line: click.echo(line, err=True))
    except (closed_loop.LoadError, processes.StartError, GeneratorError) as error:
        sys.exit(f"perf.gate: {error}")
    failed = sum(not all(limit.holds(ratio) for limit, ratio in run.items()) for run in runs)
    click.echo(f"Command: `python -m perf.gate --times {times}`. {facts()}.\n")
    click.echo("| limit | median (range) | failed |\n|---|---|---|")
    for limit in LIMITS:
        ratios = [run[limit] for run in runs]
        count = sum(not limit.holds(ratio) for ratio in ratios)
        click.echo(f"| {limit} | {fast_path.spread(ratios)} | {count} of {times} |")
    click.echo(f"\nThe gate failed in {failed} of {times} runs.")
    click.echo("\n".join(slow or ["Every form of a request is as fast as the best."]))
    sys.exit(failed > 0 or bool(slow))


if __name__ == "__main__":
    main()
