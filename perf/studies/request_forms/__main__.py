"""Measure all forms and clients, and write Markdown tables."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack

import click

from perf.bench.machine import facts
from perf.bench.request_forms import BOUND, shares
from perf.bench.tables import Table, spread
from perf.load import processes
from perf.load.generator import LoadError
from perf.load.request_forms import FORMS
from perf.studies.request_forms.study import (
    Row,
    client_rows,
    form_rows,
    most_that_is_sent,
    rounds,
)


@click.command()
@click.option("--rounds", "count", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=1.0, show_default=True, type=click.FloatRange(0.1))
def main(count: int, seconds: float) -> None:
    """Measure in turns, and write the tables."""

    def say(line: str) -> None:
        click.echo(line, err=True)

    try:
        most = most_that_is_sent(seconds)
        with processes.gateway() as (url, service), ExitStack() as stack:
            forms = form_rows(FORMS, url, stack)
            clients = client_rows(url, stack)
            flat = [row for pair in forms for row in pair]
            rounds([*flat, *clients], service, count, seconds, say)
    except (LoadError, subprocess.CalledProcessError) as error:
        sys.exit(f"perf.studies.request_forms: {error}")
    click.echo(
        "Command: `python -m perf.studies.request_forms "
        f"--rounds {count} --seconds {seconds:g}`. Medians, ranges in brackets. {facts()}; "
        f"clients ran on the same cores. All forms are sent by `perf.load.generator`; {most}. The "
        "best form is one of the same JSON without a proxy, and the gate holds "
        f"{BOUND:g} of its rate for each of these; a proxy takes its own share of the cores.\n"
    )
    click.echo(form_table(forms).markdown())
    click.echo(client_table(clients).markdown())


def form_table(forms: Sequence[tuple[Row, Row]]) -> Table:
    """Show the forms."""
    share = shares({ours.name: ours.rates() for ours, _ in forms if ours.rates()})
    table = Table(
        [
            "form of the request",
            "requests/s, 32 connections",
            "of the best form's",
            "p50 ms, 1 connection",
            "gateway's CPU, µs a request",
            "requests/s of wrk, 32 connections",
            "p50 ms of wrk, 1 connection",
            "answers",
        ]
    )
    for ours, wrk in forms:
        if ours.left_out:
            table.rows.append([ours.name, *["–"] * 6, ours.left_out])
            continue
        rate, p50, cost = _figures(ours)
        by_wrk = _figures(wrk)[:2] if wrk.rates() else ("–", "–")
        answers = ours.answers()
        if wrk.drive is not None:
            answers += f"; of wrk {wrk.left_out or wrk.answers()}"
        of_best = spread(share[ours.name], 2)
        table.rows.append([ours.name, rate, of_best, p50, cost, *by_wrk, answers])
    return table


def client_table(clients: Sequence[Row]) -> Table:
    """Show the clients."""
    table = Table(
        [
            "client",
            "requests/s, 32 callers",
            "p50 ms, 1 caller",
            "gateway's CPU, µs a request",
            "answers",
        ]
    )
    for row in clients:
        figures = ("–",) * 3 if row.left_out else _figures(row)
        table.rows.append([row.name, *figures, row.left_out or row.answers()])
    return table


def _figures(row: Row) -> tuple[str, str, str]:
    many, one = row.runs[32], row.runs[1]
    return (
        spread([run.requests_per_s for run in many], 0),
        spread([run.p50_ms for run in one], 2),
        spread([run.gateway_us for run in many], 1),
    )


if __name__ == "__main__":
    main()
