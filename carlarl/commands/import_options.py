"""What the import commands share: their options, and how they write an artifact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from carlarl.commands import options
from carlarl.errors import CommandError
from gateway.config.settings import read_settings


def import_options(name: str) -> options.Decorator:
    """Make the options of every importer: the version, what the card says, and the folder."""
    version = click.option(
        "--version", type=options.VERSION, required=True, help="The new artifact's version."
    )
    return options.together(
        version,
        click.option("--name", help=f"model_name in the card. [default: {name}]"),
        click.option("--description", default="", help="One sentence for the card."),
        click.option(
            "--metrics", type=options.FILE, help="YAML of performance metrics, for the card."
        ),
        click.option(
            "--observations",
            type=options.FILE,
            help="Recorded observations (.npy), which exports are compared on.",
        ),
        options.artifacts_option,
    )


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
    if artifacts is None and not target.is_dir():
        raise CommandError(f"{target}: no such folder; --artifacts FOLDER names or makes one")
    folder = convert(policy, version, target, metrics=measured, **given)
    click.echo(
        f"{folder}: written; `carlarl export --version {version}` puts it into the repository"
    )
