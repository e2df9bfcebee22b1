"""`carlarl rollback`: the version before the active one becomes active again."""

from typing import Any

import click

from carlarl.commands.promote import switch, switch_options


@click.command()
@switch_options
def rollback(**given: Any) -> None:
    """Go back to the version that was active before, as carefully as promote.

    Each further run goes back one more promotion.

    Example: carlarl rollback
    """
    switch(None, **given)
