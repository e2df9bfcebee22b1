"""The error that a command ends with."""

from typing import Any

import click


class CommandError(click.ClickException):
    """Something that the user must read: one line on standard error, and exit status 1."""

    def show(self, file: Any = None) -> None:
        """Print it to standard error."""
        click.echo(f"carlarl: {self.message}", err=True)
