"""What the import commands share: their options, and how they write an artifact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from carlarl.commands.options import FILE, VERSION, F, artifacts_option
from gateway.settings import read_settings


def import_options(name: str) -> Callable[[F], F]:
    """Add the options of every importer: the version, what the card says, and the folder."""
    options = (
        click.option("--version", type=VERSION, required=True, help="The new artifact's version."),
        click.option("--name", help=f"model_name in the card. [default: {name}]"),
        click.option("--description", default="", help="One sentence for the card."),
        click.option(
            "--metrics", type=FILE, help="YAML of measured performance metrics, for the card."
        ),
        click.option(
            "--observations",
            type=FILE,
            help="Recorded observations (.npy), which exports are compared on.",
        ),
        artifacts_option,
    )

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def write_artifact(
    convert: Callable[..., Path],
    policy: Path,
    *,
    version: str,
    artifacts: Path | None,
    metrics: Path | None,
    **given: Any,
) -> None:
    """Write the artifact that `convert` makes of `policy`, and tell the user where it is."""
    from converters.artifact.card import parse_yaml, read_bytes

    measured = None if metrics is None else parse_yaml(read_bytes(metrics), metrics)
    target = read_settings(artifact_dir=artifacts).artifact_dir
    folder = convert(policy, version, target, metrics=measured, **given)
    click.echo(
        f"{folder}: written; `carlarl export --version {version}` puts it into the repository"
    )
