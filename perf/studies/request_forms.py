"""The same request in every form that callers give it: `python -m perf.studies.request_forms`."""

import collections
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import click

from perf.bench.command import Command, Say, heading, say
from perf.bench.request_forms import BOUND, CONNECTIONS, FORMS, Form, in_turns, shares
from perf.bench.tables import Table, spread
from perf.load import processes
from perf.load.generator import Saw
from perf.studies.proxies import MissingError, proxy
from perf.studies.usage import cpu_s

COUNTS = (CONNECTIONS, 1)
HEAD = (
    "form of the request",
    "requests/s, 32 connections",
    "p50 ms, 1 connection",
    "gateway's CPU, µs a request",
    "of the best form's rate",
    "answers",
)


@dataclass
class Row:
    """One form, and what was measured of it."""

    form: Form
    url: str = ""
    """Where it is sent: to the gateway, or to the proxy in front of it."""
    left_out: str = ""
    """Why it is not measured."""
    runs: dict[int, list[Saw]] = field(default_factory=lambda: {count: [] for count in COUNTS})
    gateway_us: list[float] = field(default_factory=list)
    """Microseconds of the gateway's processor time for a request, on most connections."""

    def measure(self, connections: int, seconds: float, service: int) -> Saw:
        """Measure once, with an eye on the processor time of `carlarl serve`, a process id."""
        before = cpu_s(service)
        saw = self.form.run(self.url, connections, seconds)
        used = cpu_s(service) - before
        self.runs[connections].append(saw)
        if connections == CONNECTIONS:
            self.gateway_us.append(used * 1e6 / max(1, saw.answered + sum(saw.errors.values())))
        return saw

    def rates(self) -> list[float]:
        """Return requests/s on most connections, of each round."""
        return [saw.per_s for saw in self.runs[CONNECTIONS]]

    def answers(self) -> str:
        """Say how many answers of which status came, or why none did."""
        total = collections.Counter[str]()
        for saw in (saw for runs in self.runs.values() for saw in runs):
            total.update({"200": saw.answered, **saw.errors})
        if set(total) == {"200"}:
            return f"all {total['200']:,} were 200"
        counted = ", ".join(f"{status}: {count:,}" for status, count in sorted(total.items()))
        return self.left_out or counted


def begin(form: Form, url: str, stack: ExitStack) -> Row:
    """Start the form's proxy, which ends with the stack, and send the form once to warm up."""
    try:
        url = stack.enter_context(proxy(form.proxy, url)) if form.proxy else url
    except MissingError as missing:
        return Row(form, left_out=f"not measured: {missing}")
    saw = form.run(url, 1, 0.1)
    if not saw.answered:
        return Row(form, left_out=f"not taken: {', '.join(saw.errors)}")
    return Row(form, url)


def measure(rows: Sequence[Row], service: int, rounds: int, seconds: float, say: Say) -> None:
    """Measure all rows in turns; `service` is the process id of `carlarl serve`."""
    for turn, row in in_turns([row for row in rows if not row.left_out], rounds):
        for connections in COUNTS:
            row.measure(connections, seconds, service)
        say(f"round {turn} of {rounds}: {row.form.name}: {row.rates()[-1]:,.0f}/s")


def table(rows: Sequence[Row]) -> Table:
    """Show the forms, with their share of the best form's rate."""
    share = shares({row.form.name: row.rates() for row in rows if row.rates()})
    shown = Table(HEAD)
    for row in rows:
        figures = ["–"] * 4
        if rates := row.rates():
            p50 = spread([saw.p50_ms for saw in row.runs[1]], 2)
            figures = [spread(rates, 0), p50, spread(row.gateway_us, 1)]
            figures.append(spread(share[row.form.name], 2))
        shown.rows.append([row.form.name, *figures, row.answers()])
    return shown


@click.command(cls=Command)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=1.0, show_default=True, type=click.FloatRange(0.1))
def main(rounds: int, seconds: float) -> None:
    """Measure in turns, and write the table."""
    with processes.gateway() as served, ExitStack() as stack:
        rows = [begin(form, served.url, stack) for form in FORMS]
        measure(rows, served.pid, rounds, seconds, say)
    note = (
        "all forms are sent by `perf.load.generator`, on the same cores. The best form is one of "
        f"the same JSON without a proxy, and the gate holds {BOUND:g} of its rate for each of "
        "these; a proxy takes its own share of the cores"
    )
    click.echo(heading("perf.studies.request_forms", note, rounds=rounds, seconds=seconds))
    click.echo(table(rows).markdown())


if __name__ == "__main__":
    main()
