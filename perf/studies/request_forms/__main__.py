"""Measure all forms and clients, and write Markdown tables."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack

import click

from perf import processes
from perf.generator import GeneratorError
from perf.machine import facts
from perf.studies.request_forms.forms import FORMS
from perf.studies.request_forms.study import (
    BOUND,
    Row,
    client_rows,
    form_rows,
    most_that_is_sent,
    rounds,
    shares,
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
    except (processes.StartError, GeneratorError, subprocess.CalledProcessError) as error:
        sys.exit(f"perf.studies.request_forms: {error}")
    click.echo(
        "Command: `python -m perf.studies.request_forms "
        f"--rounds {count} --seconds {seconds:g}`. Medians, ranges in brackets. {facts()}; "
        f"clients ran on the same cores. All forms are sent by `perf.generator`; {most}. The best "
        f"form is one of the same JSON without a proxy, and the gate holds {BOUND:g} of its rate "
        "for each of these; a proxy takes its own share of the cores.\n"
    )
    click.echo("\n".join([*form_table(forms), "", *client_table(clients)]))


def form_table(forms: Sequence[tuple[Row, Row]]) -> list[str]:
    """Give the lines of the table of forms."""
    share = shares({ours.name: ours.rates() for ours, _ in forms if ours.rates()})
    lines = [
        "| form of the request | requests/s, 32 connections | of the best form's "
        "| p50 ms, 1 connection | gateway's CPU, µs a request "
        "| requests/s of wrk, 32 connections | p50 ms of wrk, 1 connection | answers |",
        "|" + "---|" * 8,
    ]
    for ours, wrk in forms:
        if ours.left_out:
            lines.append(f"| {ours.name} | – | – | – | – | – | – | {ours.left_out} |")
            continue
        rate, p50, cost = _figures(ours)
        by_wrk = " | ".join(_figures(wrk)[:2]) if wrk.rates() else "– | –"
        answers = ours.answers()
        if wrk.drive is not None:
            answers += f"; of wrk {wrk.left_out or wrk.answers()}"
        lines.append(
            f"| {ours.name} | {rate} | {_spread(share[ours.name], 2)} | {p50} | {cost} | {by_wrk} "
            f"| {answers} |"
        )
    return lines


def client_table(clients: Sequence[Row]) -> list[str]:
    """Give the lines of the table of clients."""
    lines = [
        "| client | requests/s, 32 callers | p50 ms, 1 caller | gateway's CPU, µs a request "
        "| answers |",
        "|" + "---|" * 5,
    ]
    for row in clients:
        figures = ("–",) * 3 if row.left_out else _figures(row)
        lines.append(f"| {row.name} | {' | '.join(figures)} | {row.left_out or row.answers()} |")
    return lines


def _figures(row: Row) -> tuple[str, str, str]:
    many, one = row.runs[32], row.runs[1]
    return (
        _spread([run.requests_per_s for run in many], 0),
        _spread([run.p50_ms for run in one], 2),
        _spread([run.gateway_us for run in many], 1),
    )


def _spread(values: Sequence[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


if __name__ == "__main__":
    main()
