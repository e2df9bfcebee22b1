"""`carlarl versions`: what the model repository holds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from carlarl.commands.options import json_option, repository_option
from gateway.config.settings import read_settings

SHOWN = ("success_rate", "mean_lap_time_s", "mean_speed_kmh", "reward")
"""The metrics that the table has room for. `--json` has all."""


@click.command()
@repository_option
@json_option
def versions(repository: Path | None, as_json: bool) -> None:
    """List the versions in the model repository.

    Example: carlarl versions
    """
    from rich.console import Console
    from rich.table import Table

    from converters.repository import repository as repositories

    found = repositories.versions(read_settings(model_repository=repository).model_repository)
    if as_json:
        click.echo(json.dumps([asdict(version) for version in found]))
        return
    table = Table("version", "active", "formats", "artifact", "metrics")
    for one in found:
        shown = [name for name in SHOWN if one.metrics.get(name) is not None]
        metrics = ", ".join(f"{name} {one.metrics[name]}" for name in shown)
        mark = "●" if one.active else ""
        table.add_row(one.version, mark, ", ".join(one.formats), one.digest[:19], metrics)
    Console().print(table)
