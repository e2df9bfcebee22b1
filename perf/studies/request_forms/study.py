"""Rounds over all forms and clients, in turns."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from perf.bench.request_forms import Say, in_turns
from perf.load.request_forms import FORMS, Form
from perf.studies import proxies
from perf.studies.proxies import MissingError
from perf.studies.request_forms import clients, wire
from perf.studies.request_forms.outcome import Drive, Outcome, observed

CONNECTIONS = (32, 1)
PROXIES = {"nginx": proxies.nginx, "haproxy": proxies.haproxy}
ANSWER = '{"actions":[{"throttle":0.0,"brake":1.0,"steer":-0.1}],"version":"v0.2.0"}'


@dataclass
class Row:
    """One form or client, by one tool."""

    name: str
    drive: Drive | None = None
    left_out: str = ""
    """Why it is not measured."""
    runs: dict[int, list[Outcome]] = field(default_factory=lambda: {c: [] for c in CONNECTIONS})

    def try_out(self) -> None:
        """Send a few requests: warm, or leave out what can't be measured."""
        if self.drive is None:
            return
        try:
            answers = self.drive(1, 0.1).answers
        except MissingError as missing:
            self.left_out = f"not measured: {missing}"
        else:
            if not answers.get("200"):
                self.left_out = f"not taken: {', '.join(answers)}"

    def answered(self) -> dict[str, int]:
        """Count the answers of all runs by status."""
        total = collections.Counter[str]()
        for one in (one for runs in self.runs.values() for one in runs):
            total.update(one.answers)
        return dict(total)

    def all_good(self) -> bool:
        """Whether each answer was 200."""
        return set(self.answered()) == {"200"}

    def answers(self) -> str:
        """Say how many answers of which status came."""
        total = self.answered()
        if self.all_good():
            return f"all {total['200']:,} were 200"
        return ", ".join(f"{status}: {count:,}" for status, count in sorted(total.items()))

    def rates(self) -> list[float]:
        """Give requests/s at most connections, of each round."""
        return [one.requests_per_s for one in self.runs[CONNECTIONS[0]]]


def form_rows(forms: Iterable[Form], url: str, stack: ExitStack) -> list[tuple[Row, Row]]:
    """Give each form by the generator and by wrk, with its proxy running as long as the stack."""
    rows = []
    for form in forms:
        ours, wrk = Row(form.name), Row(f"{form.name}, by wrk")
        rows.append((ours, wrk))
        try:
            proxy = PROXIES[form.proxy] if form.proxy else None
            at = stack.enter_context(proxy(url)) if proxy else url
        except MissingError as missing:
            ours.left_out = f"not measured: {missing}"
            continue
        ours.drive = partial(wire.by_generator, form, at)
        if form.of_wrk:
            wrk.drive = partial(wire.by_wrk, form, at)
    return rows


def client_rows(url: str, stack: ExitStack) -> list[Row]:
    """Give the clients that people use."""
    rows = []
    for name, start in clients.CLIENTS.items():
        try:
            rows.append(Row(name, stack.enter_context(start(url))))
        except MissingError as missing:
            rows.append(Row(name, left_out=f"not measured: {missing}"))
    return rows


def rounds(rows: Sequence[Row], service: int, count: int, seconds: float, say: Say) -> None:
    """Measure all rows in turns, with each number of connections.

    `service` is the process id of `carlarl serve`.
    """
    for row in rows:
        row.try_out()
    left = [row for row in rows if row.drive and not row.left_out]
    for turn, row in in_turns(left, count):
        for connections in CONNECTIONS:
            assert row.drive
            row.runs[connections].append(observed(row.drive, connections, seconds, service))
        say(f"round {turn} of {count}: {row.name}: {row.rates()[-1]:,.0f}/s")


def most_that_is_sent(seconds: float) -> str:
    """Say how much the generator can send where answers cost nothing."""
    plain, *_, most = sorted((form for form in FORMS if form.held), key=lambda one: one.segments)
    try:
        with proxies.constant_answer(ANSWER) as url:
            rates = [
                wire.by_generator(form, url, CONNECTIONS[0], seconds).requests_per_s
                for form in (plain, most)
            ]
    except MissingError as missing:
        return f"how much the generator can send was not measured: {missing}"
    return (
        f"against an nginx that gives a constant answer the generator sends {rates[0]:,.0f} "
        f"requests/s in one segment and {rates[1]:,.0f} in {most.segments}"
    )
