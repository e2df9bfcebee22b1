"""Whether every form of the same request is as fast as the best: a part of `perf.bench.gate`."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import TypeVar

from perf.bench.command import Say
from perf.load import generator, processes
from perf.load.request_forms import FORMS

BOUND = 0.9
"""What share of the best form's rate the gate demands of each form of the same body."""
SEGMENT = 0.06
"""How much less of it for each further segment: sending and receiving one costs the generator and
the kernel that much on the same cores, whatever the gateway does with it."""
CONNECTIONS = 32

Item = TypeVar("Item")


def in_turns(items: Sequence[Item], rounds: int) -> Iterator[tuple[int, Item]]:
    """Give the number of the round and an item, all items in each round; each begins elsewhere."""
    for turn in range(rounds):
        first = turn * len(items) // rounds
        for item in (*items[first:], *items[:first]):
            yield turn + 1, item


def check_forms(say: Say, rounds: int = 5, seconds: float = 1.0) -> list[str]:
    """Measure the forms of the same body; return a line for each that fails or is slow.

    Raises LoadError.
    """
    forms = [form for form in FORMS if form.held]
    rates: dict[str, list[float]] = {form.name: [] for form in forms}
    failed = {}
    with processes.gateway() as served:
        for form in forms:  # warm
            generator.run(form.load(served.url, 1, 0.1))
        for turn, form in in_turns(forms, rounds):
            saw = generator.run(form.load(served.url, CONNECTIONS, seconds))
            if saw.errors:
                failed[form.name] = f"{form.name}: requests failed: {saw.errors}"
            rates[form.name].append(saw.per_s)
            say(f"round {turn} of {rounds}: {form.name}: {saw.per_s:,.0f}/s")
    found = slow({name: each for name, each in rates.items() if name not in failed})
    to_reach = f"of the best form's requests/s, to reach {BOUND:g}, or less in several segments"
    return [*failed.values(), *(f"{name}: {part:.2f} {to_reach}" for name, part in found.items())]


def shares(rates: dict[str, list[float]]) -> dict[str, list[float]]:
    """Give rates over those of the best form of the same body, round by round."""
    held = [rates[form.name] for form in FORMS if form.held and form.name in rates]
    best = max(held, key=statistics.median, default=[])
    return {
        name: [one / other for one, other in zip(found, best, strict=True)]
        for name, found in rates.items()
    }


def slow(rates: dict[str, list[float]]) -> dict[str, float]:
    """Give the forms whose median share of the best form's rate is below the bound."""
    bounds = {form.name: BOUND - SEGMENT * (form.segments - 1) for form in FORMS}
    medians = {name: statistics.median(found) for name, found in shares(rates).items()}
    return {name: share for name, share in medians.items() if share < bounds[name]}
