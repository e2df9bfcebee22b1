"""Commands about the versions in the model repository, and which of them is active."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from carlarl.options import Failure, json_option, read, repository_option


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
        metrics = ", ".join(f"{name} {value}" for name, value in one.metrics.items())
        mark = "●" if one.active else ""
        table.add_row(one.version, mark, ", ".join(one.formats), one.digest[:19], metrics)
    Console().print(table)


COMMANDS = (versions,)
