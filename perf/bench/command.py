"""What the commands `python -m perf.…` have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from perf.bench.machine import facts
from perf.load.generator import LoadError

Say = Callable[[str], None]


def say(line: str) -> None:
    """Write a line of progress to standard error."""
    click.echo(line, err=True)


class Command(click.Command):
    """A command that ends with one line where something can't be measured."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        try:
            return super().invoke(ctx)
        except LoadError as error:
            raise click.ClickException(str(error)) from None


def study(rounds: int = 5, seconds: float = 1.0, least: float = 1.0) -> Callable[..., Command]:
    """Make a command of a function that takes `rounds` and `seconds`; these are the defaults."""

    def decorate(function: Callable[..., None]) -> Command:
        for name, default, kind in (
            ("--seconds", seconds, click.FloatRange(least)),
            ("--rounds", rounds, click.IntRange(1)),
        ):
            function = click.option(name, default=default, show_default=True, type=kind)(function)
        return click.command(cls=Command)(function)

    return decorate


def heading(module: str, note: str = "", **options: float) -> str:
    """Give the paragraph above a study's tables: its command, and the machine."""
    flags = "".join(f" --{name} {value:g}" for name, value in options.items())
    text = f"Command: `python -m {module}{flags}`. Medians, ranges in brackets."
    return f"{text} {facts()}{note and '; '}{note}.\n"
