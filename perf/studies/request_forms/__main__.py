"""Measure all forms and clients in turns, and write Markdown tables."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import click

from perf.bench.command import Say, heading, say, study
from perf.bench.request_forms import BOUND, CONNECTIONS, FORMS, Form, in_turns, shares
from perf.bench.tables import Table, spread
from perf.load import processes
from perf.load.generator import Saw
from perf.studies.request_forms.clients import CLIENTS, Drive, Start
from perf.studies.request_forms.proxies import MissingError, proxy
from perf.studies.usage import cpu_s

COUNTS = (CONNECTIONS, 1)
FIGURES = ("requests/s, 32 connections", "p50 ms, 1 connection", "gateway's CPU, µs a request")


@dataclass
class Row:
    """One form or client, and what was measured of it."""

    name: str
    drive: Drive | None = None
    left_out: str = ""
    """Why it is not measured."""
    runs: dict[int, list[Saw]] = field(default_factory=lambda: {count: [] for count in COUNTS})
    gateway_us: list[float] = field(default_factory=list)
    """Microseconds of the gateway's processor time for a request, on most connections."""

    def measure(self, connections: int, seconds: float, service: int) -> Saw:
        """Measure once, with an eye on the processor time of `carlarl serve`, a process id."""
        assert self.drive
        before, _ = cpu_s(service)
        saw = self.drive(connections, seconds)
        used = cpu_s(service)[0] - before
        self.runs[connections].append(saw)
        if connections == CONNECTIONS:
            self.gateway_us.append(used * 1e6 / max(1, saw.answered + sum(saw.errors.values())))
        return saw

    def rates(self) -> list[float]:
        """Give requests/s on most connections, of each round."""
        return [saw.per_s for saw in self.runs[CONNECTIONS]]

    def figures(self) -> list[str]:
        """Show rate, latency and the gateway's time."""
        if not self.rates():
            return ["–"] * len(FIGURES)
        p50 = spread([saw.p50_ms for saw in self.runs[1]], 2)
        return [spread(self.rates(), 0), p50, spread(self.gateway_us, 1)]

    def answers(self) -> str:
        """Say how many answers of which status came, or why none did."""
        total = collections.Counter[str]()
        for saw in (saw for runs in self.runs.values() for saw in runs):
            total.update({"200": saw.answered, **saw.errors})
        if set(total) == {"200"}:
            return f"all {total['200']:,} were 200"
        counted = ", ".join(f"{status}: {count:,}" for status, count in sorted(total.items()))
        return self.left_out or counted


@contextmanager
def sending(form: Form, url: str) -> Iterator[Drive]:
    """Give what sends a form, with its proxy running until the block ends."""
    with ExitStack() as stack:
        yield partial(form.run, stack.enter_context(proxy(form.proxy, url)) if form.proxy else url)


def begin(name: str, start: Start, url: str, stack: ExitStack) -> Row:
    """Start a form or a client, and warm it; it ends with the stack."""
    try:
        drive = stack.enter_context(start(url))
        saw = drive(1, 0.1)
    except MissingError as missing:
        return Row(name, left_out=f"not measured: {missing}")
    if not saw.answered:
        return Row(name, left_out=f"not taken: {', '.join(saw.errors)}")
    return Row(name, drive)


def measure(rows: Sequence[Row], service: int, rounds: int, seconds: float, say: Say) -> None:
    """Measure all rows in turns; `service` is the process id of `carlarl serve`."""
    for turn, row in in_turns([row for row in rows if row.drive], rounds):
        for connections in COUNTS:
            row.measure(connections, seconds, service)
        say(f"round {turn} of {rounds}: {row.name}: {row.rates()[-1]:,.0f}/s")


def form_table(rows: Sequence[Row]) -> Table:
    """Show the forms, with their share of the best form's rate."""
    share = shares({row.name: row.rates() for row in rows if row.rates()})
    table = Table(["form of the request", *FIGURES, "of the best form's rate", "answers"])
    for row in rows:
        part = spread(share[row.name], 2) if row.name in share else "–"
        table.rows.append([row.name, *row.figures(), part, row.answers()])
    return table


def client_table(rows: Sequence[Row]) -> Table:
    """Show the clients, each with as many callers as connections."""
    shown = [[row.name, *row.figures(), row.answers()] for row in rows]
    return Table(["client", *FIGURES, "answers"], shown)


@study(rounds=5, seconds=1.0, least=0.1)
def main(rounds: int, seconds: float) -> None:
    """Measure in turns, and write the tables."""
    with processes.gateway() as served, ExitStack() as stack:
        forms = [begin(form.name, partial(sending, form), served.url, stack) for form in FORMS]
        clients = [begin(name, start, served.url, stack) for name, start in CLIENTS.items()]
        measure([*forms, *clients], served.pid, rounds, seconds, say)
    note = (
        "clients ran on the same cores; all forms are sent by `perf.load.generator`. The best form "
        "is one of the same JSON without a proxy, and the gate holds "
        f"{BOUND:g} of its rate for each of these; a proxy takes its own share of the cores"
    )
    click.echo(heading("perf.studies.request_forms", note, rounds=rounds, seconds=seconds))
    for table in (form_table(forms), client_table(clients)):
        click.echo(table.markdown())


if __name__ == "__main__":
    main()
