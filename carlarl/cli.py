"""The command line `carlarl`; each command imports what it needs when it runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from carlarl.commands import (
    bench,
    config,
    drive,
    import_policies,
    keys,
    predict,
    tune,
    validate,
    versions,
)
from carlarl.commands.options import Formats, config_option, profile_option, read, repository_option


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
@config_option
@profile_option
@click.option(
    "--ssl-certfile",
    type=click.Path(path_type=Path),
    help="The gateway's certificate chain (PEM); then it serves HTTPS. [env: SSL_CERTFILE]",
)
@click.option(
    "--ssl-keyfile",
    type=click.Path(path_type=Path),
    help="The certificate's private key (PEM). [env: SSL_KEYFILE]",
)
@click.option(
    "--formats",
    type=Formats(),
    default=("onnx",),
    help="Formats whose ensembles are loaded, beside the one that is active.",
)
def serve(formats: tuple[str, ...], repository: Path | None, **flags: Any) -> None:
    """Start Triton and the gateway, until Ctrl-C.

    With TRITON_URL set, no Triton is started and that one is used. With --config the gateway
    follows the file: what can change while it serves does, within a second or on SIGHUP.

    \b
    Example: carlarl serve --port 8080
    Example: carlarl serve --config carlarl.yaml --profile production
    """
    from carlarl.serving import log, ports, supervision, triton_server
    from carlarl.serving import service as serving
    from converters.repository.repository import RepositoryError

    given = {"model_repository": repository, **flags}
    settings = read(**given)
    # The gateway's process reads file and environment by itself, where a flag has to win too.
    os.environ.update({k.upper(): str(v) for k, v in given.items() if v is not None})
    voice = log.voice(settings)
    try:
        serving.serve(settings, formats, voice.say, voice.warn)
    except (
        supervision.ServeError,
        triton_server.TritonError,
        ports.PortTakenError,
        RepositoryError,
    ) as error:
        voice.fail(str(error))
        sys.exit(1)


MODULES = (
    bench,
    config,
    drive,
    predict,
    import_policies,
    keys,
    validate,
    tune,
    versions,
)
for module in MODULES:
    for command in module.COMMANDS:
        cli.add_command(command)
