"""`carlarl promote`: another version becomes the active one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from carlarl.commands import options
from gateway.config.settings import read_settings

switch_options = options.together(
    options.repository_option,
    click.option(
        "--triton",
        metavar="URL",
        help="Triton's HTTP endpoint; TRITON_GRPC_PORT is its gRPC port. [default: $TRITON_URL, or "
        "the embedded server if one runs]",
    ),
    click.option("--offline", is_flag=True, help="Change only the repository on disk."),
    options.json_option,
)
"""The options of `promote` and `rollback`."""


@click.command()
@click.argument("version", type=options.VERSION)
@switch_options
def promote(version: str, **given: Any) -> None:
    """Make a version the active one, in the repository and in the Triton that is running.

    The server loads the version beside the active one, warms it, and must repeat its recorded
    answers before the alias moves. No request fails meanwhile; gateways follow within two seconds.
    If a step fails, the old version stays active.

    Example: carlarl promote v0.2.0
    """
    from carlarl.promotion import promote

    switch(lambda folder, *rest: promote.promote(folder, version, *rest), **given)


def switch(
    change: Callable[..., Any],
    *,
    repository: Path | None,
    triton: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Run `change` on the repository and the running server, and tell the user what is active."""
    if offline and triton:
        raise click.UsageError("--offline asks no server: leave out --triton")
    from rich.console import Console

    from carlarl.promotion.promote import running_triton

    settings = read_settings(model_repository=repository, triton_url=triton)
    with (
        running_triton(None if offline else settings) as server,
        Console(stderr=True).status("") as status,
    ):
        done = change(settings.model_repository, server, status.update)
    if as_json:
        click.echo(json.dumps(asdict(done)))
        return
    was = f"was {done.previous}" if done.previous != done.version else "as before"
    where = f"on {done.triton}" if done.triton else "in the repository; no running Triton was asked"
    click.echo(f"active is {done.version} ({was}) {where}, {done.seconds:.1f} s")
