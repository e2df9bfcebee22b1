"""`carlarl load`: the running service serves one more version of its repository."""

from typing import Any

import click

from carlarl.commands import options
from carlarl.commands.promote import server, server_options


@click.command()
@click.argument("version", type=options.VERSION)
@server_options
def load(version: str, **given: Any) -> None:
    """Let the running Triton serve a version that it holds, now and at every later start.

    Example: carlarl load v0.1.0
    """
    from carlarl.promotion import loading

    with server(**given) as (settings, triton, progress):
        assert triton is not None  # only --offline gives none
        loading.load(settings.model_repository, version, triton, progress)
    click.echo(f"{version} is loaded")
