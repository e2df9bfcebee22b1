"""`carlarl unload`: the running service no longer serves a version; its files stay."""

from typing import Any

import click

from carlarl.commands import options
from carlarl.commands.promote import server, server_options


@click.command()
@click.argument("version", type=options.VERSION)
@server_options
def unload(version: str, **given: Any) -> None:
    """Take a version out of the running Triton; its files stay, and `carlarl load` brings it back.

    The active version can't be unloaded.

    Example: carlarl unload v0.1.0
    """
    from carlarl.promotion import loading

    with server(**given) as (settings, triton, _):
        assert triton is not None  # only --offline gives none
        loading.unload(settings.model_repository, version, triton)
    click.echo(f"{version} is held, and no longer loaded")
