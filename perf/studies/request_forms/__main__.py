"""Measure all forms and clients in turns, and write Markdown tables."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import click

from perf.bench.command import Say, heading, say, study
from perf.bench.request_forms import BOUND, in_turns, shares
from perf.bench.tables import Table, spread
from perf.load import closed_loop, generator, processes
from perf.load.generator import Saw
from perf.load.request_forms import FORMS, Form
from perf.studies import proxies
from perf.studies.proxies import MissingError
from perf.studies.request_forms.clients import CLIENTS, Drive
from perf.studies.usage import cpu_s

CONNECTIONS = (32, 1)
PROXIES = {"nginx": proxies.nginx, "haproxy": proxies.haproxy}
ANSWER = '{"actions":[{"throttle":0.0,"brake":1.0,"steer":-0.1}],"version":"v0.2.0"}'
FORM_HEAD = (
    "form of the request",
    "requests/s, 32 connections",
    "of the best form's",
    "p50 ms, 1 connection",
    "gateway's CPU, µs a request",
    "requests/s of wrk, 32 connections",
    "p50 ms of wrk, 1 connection",
    "answers",
)
CLIENT_HEAD = (
    "client",
    "requests/s, 32 callers",
    "p50 ms, 1 caller",
    "gateway's CPU, µs a request",
    "answers",
)


@dataclass
class Row:
    """One form or client, by one tool."""

    name: str
    drive: Drive | None = None
    left_out: str = ""
    """Why it is not measured."""
    runs: dict[int, list[Saw]] = field(default_factory=lambda: {c: [] for c in CONNECTIONS})
    gateway_us: list[float] = field(default_factory=list)
    """Microseconds of the gateway's processor time for a request, on most connections."""

    def try_out(self) -> None:
        """Send a few requests: warm, or leave out what can't be measured."""
        if self.drive is None:
            return
        try:
            saw = self.drive(1, 0.1)
        except MissingError as missing:
            self.left_out = f"not measured: {missing}"
        else:
            if not saw.answered:
                self.left_out = f"not taken: {', '.join(saw.errors)}"

    def measure(self, connections: int, seconds: float, service: int) -> Saw:
        """Measure once, with an eye on the processor time of `carlarl serve`, a process id."""
        assert self.drive
        before, _ = cpu_s(service)
        saw = self.drive(connections, seconds)
        used = cpu_s(service)[0] - before
        self.runs[connections].append(saw)
        if connections == CONNECTIONS[0]:
            self.gateway_us.append(used * 1e6 / max(1, saw.answered + sum(saw.errors.values())))
        return saw

    def rates(self) -> list[float]:
        """Give requests/s on most connections, of each round."""
        return [saw.per_s for saw in self.runs[CONNECTIONS[0]]]

    def figures(self) -> list[str]:
        """Show rate, latency and the gateway's time."""
        if not self.rates():
            return ["–"] * 3
        p50 = spread([saw.p50_ms for saw in self.runs[1]], 2)
        return [spread(self.rates(), 0), p50, spread(self.gateway_us, 1)]

    def answers(self) -> str:
        """Say how many answers of which status came."""
        total = collections.Counter[str]()
        for saw in (saw for runs in self.runs.values() for saw in runs):
            total.update({"200": saw.answered, **saw.errors})
        if set(total) == {"200"}:
            return f"all {total['200']:,} were 200"
        return ", ".join(f"{status}: {count:,}" for status, count in sorted(total.items()))


def by_generator(form: Form, url: str, connections: int, seconds: float) -> Saw:
    """Send a form with `perf.load.generator`."""
    return generator.run(form.load(url, connections, seconds))


def by_wrk(form: Form, url: str, connections: int, seconds: float) -> Saw:
    """Send a form that wrk can spell."""
    proxies.program("wrk")
    return closed_loop.wrk(url, form.headers, form.content, connections, seconds)


def form_rows(forms: Iterable[Form], url: str, stack: ExitStack) -> list[tuple[Row, Row]]:
    """Give each form by the generator and by wrk, with its proxy running as long as the stack."""
    rows = []
    for form in forms:
        ours, wrk = Row(form.name), Row(f"{form.name}, by wrk")
        rows.append((ours, wrk))
        try:
            at = stack.enter_context(PROXIES[form.proxy](url)) if form.proxy else url
        except MissingError as missing:
            ours.left_out = f"not measured: {missing}"
            continue
        ours.drive = partial(by_generator, form, at)
        if form.of_wrk:
            wrk.drive = partial(by_wrk, form, at)
    return rows


def client_rows(url: str, stack: ExitStack) -> list[Row]:
    """Give the clients that people use."""
    rows = []
    for name, start in CLIENTS.items():
        try:
            rows.append(Row(name, stack.enter_context(start(url))))
        except MissingError as missing:
            rows.append(Row(name, left_out=f"not measured: {missing}"))
    return rows


def measure(rows: Sequence[Row], service: int, rounds: int, seconds: float, say: Say) -> None:
    """Measure all rows in turns; `service` is the process id of `carlarl serve`."""
    for row in rows:
        row.try_out()
    left = [row for row in rows if row.drive and not row.left_out]
    for turn, row in in_turns(left, rounds):
        for connections in CONNECTIONS:
            row.measure(connections, seconds, service)
        say(f"round {turn} of {rounds}: {row.name}: {row.rates()[-1]:,.0f}/s")


def most_that_is_sent(seconds: float) -> str:
    """Say how much the generator can send where answers cost nothing."""
    plain, *_, most = sorted((form for form in FORMS if form.held), key=lambda one: one.segments)
    try:
        with proxies.constant_answer(ANSWER) as url:
            one, several = (
                by_generator(form, url, CONNECTIONS[0], seconds).per_s for form in (plain, most)
            )
    except MissingError as missing:
        return f"how much the generator can send was not measured: {missing}"
    return (
        f"against an nginx that gives a constant answer the generator sends {one:,.0f} "
        f"requests/s in one segment and {several:,.0f} in {most.segments}"
    )


def form_table(forms: Sequence[tuple[Row, Row]]) -> Table:
    """Show the forms."""
    share = shares({ours.name: ours.rates() for ours, _ in forms if ours.rates()})
    table = Table(FORM_HEAD)
    for ours, wrk in forms:
        rate, *others = ours.figures()
        of_best = spread(share[ours.name], 2) if ours.rates() else "–"
        answers = ours.left_out or ours.answers()
        if wrk.drive is not None:
            answers += f"; of wrk {wrk.left_out or wrk.answers()}"
        table.rows.append([ours.name, rate, of_best, *others, *wrk.figures()[:2], answers])
    return table


def client_table(clients: Sequence[Row]) -> Table:
    """Show the clients."""
    rows = [[row.name, *row.figures(), row.left_out or row.answers()] for row in clients]
    return Table(CLIENT_HEAD, rows)


@study(rounds=5, seconds=1.0, least=0.1)
def main(rounds: int, seconds: float) -> None:
    """Measure in turns, and write the tables."""
    most = most_that_is_sent(seconds)
    with processes.gateway() as served, ExitStack() as stack:
        forms = form_rows(FORMS, served.url, stack)
        clients = client_rows(served.url, stack)
        flat = [row for pair in forms for row in pair]
        measure([*flat, *clients], served.pid, rounds, seconds, say)
    note = (
        f"clients ran on the same cores. All forms are sent by `perf.load.generator`; {most}. The "
        "best form is one of the same JSON without a proxy, and the gate holds "
        f"{BOUND:g} of its rate for each of these; a proxy takes its own share of the cores"
    )
    click.echo(heading("perf.studies.request_forms", note, rounds=rounds, seconds=seconds))
    click.echo(form_table(forms).markdown())
    click.echo(client_table(clients).markdown())


if __name__ == "__main__":
    main()
