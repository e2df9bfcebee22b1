"""The command line `carlarl`; each command imports what it needs when it runs."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from carlarl import (
    bench_commands,
    gateway_commands,
    import_commands,
    trust_commands,
    version_commands,
)
from carlarl.options import Failure, Formats, read, repository_option


def main() -> None:
    """Run the command line: status 0, 1 for a failure, 2 for bad use."""
    try:
        cli(standalone_mode=False)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="carlarl")
def cli() -> None:
    """Serve trained driving policies: artifact → Triton model repository → JSON actions."""


@cli.command()
@repository_option
@click.option("--host", help="Address that the gateway listens on. [default: $HOST]")
@click.option("--port", type=int, help="Port of the gateway. [default: $PORT]")
@click.option("--workers", type=int, help="Gateway processes. [default: $WORKERS]")
@click.option(
    "--formats",
    type=Formats(),
    default=("onnx",),
    help="Formats whose ensembles are loaded, beside the one that is active.",
)
def serve(
    repository: Path | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    formats: tuple[str, ...],
) -> None:
    """Start Triton and the gateway, until Ctrl-C.

    With TRITON_URL set, no Triton is started and that one is used.

    Example: carlarl serve --port 8080
    """
    from carlarl import ports, supervision, triton_server
    from carlarl import serve as serving
    from converters.repository import RepositoryError

    settings = read(model_repository=repository, host=host, port=port, workers=workers)
    try:
        serving.serve(settings, formats, click.echo)
    except (
        supervision.ServeError,
        triton_server.TritonError,
        ports.PortTakenError,
        RepositoryError,
    ) as error:
        raise Failure(str(error)) from None


for module in (
    bench_commands,
    gateway_commands,
    import_commands,
    trust_commands,
    version_commands,
):
    for command in module.COMMANDS:
        cli.add_command(command)
