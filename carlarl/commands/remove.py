"""`carlarl remove`: a version leaves the model repository."""

import shutil
from typing import Any

import click

from carlarl.commands import options
from carlarl.commands.promote import offline_option, server, server_options
from carlarl.errors import CommandError


@click.command()
@click.argument("version", type=options.VERSION)
@server_options
@offline_option
@click.option("--artifact", is_flag=True, help="Remove the artifact, too.")
def remove(version: str, artifact: bool, **given: Any) -> None:
    """Take a version out of the model repository, but not the active one or a loaded one.

    Example: carlarl remove v0.1.0
    """
    from carlarl.promotion import loading

    with server(**given) as (settings, triton, _):
        loading.remove(settings.model_repository, version, triton)
    click.echo(f"{settings.model_repository}: {version} is removed")
    if artifact:
        folder = settings.artifact_dir / version
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise CommandError(f"{folder}: it can't be removed: {error.strerror}") from None
        click.echo(f"{folder} is removed")
