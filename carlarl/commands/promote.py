"""`carlarl promote`: another version becomes the active one."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from carlarl.commands import options
from gateway.config.settings import Settings, read_settings

if TYPE_CHECKING:
    from carlarl.promotion.triton_control import TritonControl

server_options = options.together(
    options.repository_option,
    click.option(
        "--triton",
        metavar="URL",
        help="Triton's HTTP endpoint; TRITON_GRPC_PORT is its gRPC port. [default: $TRITON_URL, or "
        "that of the service that runs on the repository]",
    ),
    options.config_option,
    options.profile_option,
)
"""The options of commands that change what a running Triton serves."""
offline_option = click.option("--offline", is_flag=True, help="Change only the repository on disk.")
switch_options = options.together(
    click.option(
        "--allow-signature-change",
        is_flag=True,
        help="Also activate a version whose observations or actions have another form.",
    ),
    server_options,
    offline_option,
    options.json_option,
)
"""The options of `promote` and `rollback`."""


@contextmanager
def server(
    repository: Path | None, triton: str | None, offline: bool = False, **config: Any
) -> "Iterator[tuple[Settings, TritonControl | None, Callable[[str], None]]]":
    """Yield the settings, the running Triton (None if `offline`), and what shows a step."""
    if offline and triton:
        raise click.UsageError("--offline asks no server: leave out --triton")
    from rich.console import Console

    from carlarl.promotion.connection import running_triton

    settings = read_settings(model_repository=repository, triton_url=triton, **config)
    with (
        Console(stderr=True).status("") as status,
        nullcontext() if offline else running_triton(settings, status.update) as found,
    ):
        yield settings, found, status.update


@click.command()
@click.argument("version", type=options.VERSION)
@switch_options
def promote(version: str, **given: Any) -> None:
    """Make a version the active one, in the repository and in the Triton that is running.

    The server loads the version beside the active one, warms it, and must repeat its recorded
    answers before the alias moves. No request fails meanwhile; gateways follow within two seconds.
    If a step fails, the old version stays active. If no server answers, nothing is changed, unless
    --offline is given.

    Example: carlarl promote v0.2.0
    """
    switch(version, **given)


def switch(
    version: str | None, *, allow_signature_change: bool, as_json: bool, **given: Any
) -> None:
    """Promote `version`, or roll back without one, and tell the user what is active."""
    from carlarl.promotion.promote import promote

    with server(**given) as (settings, triton, progress):
        root = settings.model_repository
        done = promote(
            root,
            version,
            triton,
            progress,
            allow_signature_change=allow_signature_change,
        )
    if as_json:
        click.echo(json.dumps(asdict(done)))
        return
    was = f"was {done.previous}" if done.previous != done.version else "as before"
    where = f"on {done.triton}" if done.triton else "in the repository; no running Triton was asked"
    click.echo(f"active is {done.version} ({was}) {where}, {done.seconds:.1f} s")
