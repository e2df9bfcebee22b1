"""What the commands `python -m perf.…` have in common."""

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


def heading(module: str, note: str = "", **options: float) -> str:
    """Return the paragraph above a study's tables: its command, and the machine."""
    flags = "".join(f" --{name} {value:g}" for name, value in options.items())
    text = f"Command: `python -m {module}{flags}`. Medians, ranges in brackets."
    return f"{text} {facts()}{note and '; '}{note}.\n"
