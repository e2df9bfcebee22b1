"""Commands about the versions in the model repository, and which of them is active."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from carlarl.options import Failure, Version, json_option, read, repository_option

SHOWN = ("success_rate", "mean_lap_time_s", "mean_speed_kmh", "reward")
"""Metrics that the table has room for; --json has all."""


@click.command()
@repository_option
@json_option
def versions(repository: Path | None, as_json: bool) -> None:
    """List the versions in the model repository.

    Example: carlarl versions
    """
    from rich.console import Console
    from rich.table import Table

    from converters import repository as repositories

    try:
        found = repositories.versions(read(model_repository=repository).model_repository)
    except repositories.RepositoryError as error:
        raise Failure(str(error)) from None
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


triton_option = click.option(
    "--triton",
    metavar="URL",
    help="Triton's HTTP endpoint. [default: $TRITON_URL, or the embedded server where one runs]",
)
offline_option = click.option(
    "--offline", is_flag=True, help="Change the repository alone, whatever runs."
)


@click.command()
@click.argument("version", type=Version())
@repository_option
@triton_option
@offline_option
@json_option
def promote(
    version: str, repository: Path | None, triton: str | None, offline: bool, as_json: bool
) -> None:
    """Make a version the active one, in the repository and in the Triton that is running.

    The server loads it beside the active version, warms it and must repeat its recorded answers
    before the alias moves. No request fails meanwhile; gateways follow within two seconds. Where a
    step fails, the old version stays active.

    Example: carlarl promote v0.2.0
    """
    from carlarl import promotion

    _switch(
        lambda folder, server, progress: promotion.promote(folder, version, server, progress),
        repository,
        triton,
        offline,
        as_json,
    )


@click.command()
@repository_option
@triton_option
@offline_option
@json_option
def rollback(repository: Path | None, triton: str | None, offline: bool, as_json: bool) -> None:
    """Go back to the version that was active before, as carefully as promote.

    Run again it goes further back, through the history of promotions.

    Example: carlarl rollback
    """
    from carlarl import promotion

    _switch(promotion.rollback, repository, triton, offline, as_json)


def _switch(
    change: Callable[[Path, Any, Callable[[str], None]], Any],
    repository: Path | None,
    triton: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    if offline and triton:
        raise click.UsageError("--offline takes no server: leave out --triton")
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    from carlarl import promotion

    settings = read(model_repository=repository)
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    try:
        server = None if offline else promotion.running_triton(triton, settings)
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("")
            done = change(
                settings.model_repository,
                server,
                lambda step: progress.update(task, description=step),
            )
    except promotion.PromotionError as error:
        raise Failure(str(error)) from None
    if as_json:
        click.echo(json.dumps(asdict(done)))
        return
    was = f"was {done.previous}" if done.previous != done.version else "as before"
    where = f"on {done.triton}" if done.triton else "in the repository; no running Triton was asked"
    click.echo(f"active is {done.version} ({was}) {where}, {done.seconds:.1f} s")


COMMANDS = (versions, promote, rollback)
