"""`carlarl config`: the settings in force, and where each comes from."""

import json
import sys
from typing import Any

import click

from carlarl.commands.options import config_option, json_option, profile_option
from gateway.config.settings import is_live, sourced_settings


@click.command()
@config_option
@profile_option
@json_option
def config(as_json: bool, **flags: Any) -> None:
    """Show the settings in force: name, value, where it comes from, whether it changes live.

    A flag wins over its variable, and a variable over the configuration file. The exit status is
    1 if the file, or a value anywhere, can't be used.

    \b
    Example: carlarl config
    Example: carlarl config --config carlarl.yaml --profile production --json
    """
    from rich.console import Console
    from rich.table import Column, Table

    settings, sources = sourced_settings(**flags)
    shown = {name: _plain(value) for name, value in settings}
    if as_json:
        entries = {
            name: {"value": value, "source": sources[name], "live": is_live(name)}
            for name, value in shown.items()
        }
        click.echo(json.dumps(entries))
        return
    table = Table("setting", Column("value", overflow="fold"), "from", "changes live")
    for name, value in shown.items():
        text = "" if value is None else ",".join(value) if isinstance(value, list) else str(value)
        table.add_row(name, text, sources[name], "yes" if is_live(name) else "")
    # Where it is piped no value is cut or wrapped.
    Console(width=None if sys.stdout.isatty() else 9999).print(table)


def _plain(value: object) -> object:
    """Return a value that JSON can hold. A secret becomes stars."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return list(value) if isinstance(value, tuple) else str(value)
