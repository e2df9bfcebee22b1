"""`carlarl versions`: what the model repository holds."""

import json
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import click

from carlarl.commands.options import json_option, repository_option
from carlarl.errors import CommandError
from gateway.config.settings import Settings, read_settings

SHOWN = ("success_rate", "mean_lap_time_s", "mean_speed_kmh", "reward")
"""The metrics that the table has room for. `--json` has all."""


@click.command()
@repository_option
@json_option
def versions(repository: Path | None, as_json: bool) -> None:
    """List the versions in the model repository, and which of them the running service has loaded.

    Example: carlarl versions
    """
    from rich.console import Console
    from rich.table import Table

    from converters.repository import configs, preflight
    from converters.repository import repository as repositories

    settings = read_settings(model_repository=repository)
    root, models, found = settings.model_repository, _models(settings), []
    for one in repositories.versions(root):
        damaged = one.damaged or preflight.damage(root, one.version)
        loaded = None if models is None else models.get(configs.ensemble_name(one.version), False)
        found.append(replace(one, damaged=damaged, loaded=loaded))
    if as_json:
        click.echo(json.dumps([asdict(version) for version in found]))
        return
    table = Table("version", "active", "loaded", "formats", "artifact", "metrics")
    for one in found:
        shown = [name for name in SHOWN if one.metrics.get(name) is not None]
        metrics = ", ".join(f"{name} {one.metrics[name]}" for name in shown)
        told = f"damaged: {one.damaged}" if one.damaged else metrics
        marks = ["●" if mark else "" for mark in (one.active, one.loaded)]
        formats = ", ".join(one.formats)
        table.add_row(one.version, *marks, formats, one.digest[:19], told)
    Console().print(table)
    if models is None:
        click.echo("no service runs on this repository")


def _models(settings: Settings) -> dict[str, bool] | None:
    """Return the running Triton's models, and whether each is loaded; None if none answers."""
    from carlarl.promotion.connection import running_triton
    from carlarl.serving import running

    if settings.triton_url or running.services(settings):
        with suppress(CommandError), running_triton(settings, patience_s=0) as triton:
            return triton.models()
    return None
