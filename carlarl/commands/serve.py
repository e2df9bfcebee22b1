"""`carlarl serve`: Triton and the gateway."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from carlarl.commands import options
from carlarl.errors import CommandError
from converters.errors import ConversionError
from gateway.config.settings import read_settings


@click.command()
@options.repository_option
@click.option("--host", help="Address that the gateway listens on. [default: $HOST]")
@click.option("--port", type=int, help="Port of the gateway. [default: $PORT]")
@click.option("--workers", type=int, help="Gateway processes. [default: $WORKERS]")
@options.config_option
@options.profile_option
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
    type=options.FORMAT_LIST,
    default=("onnx",),
    help="Formats whose ensembles Triton loads, beside the active one.",
)
def serve(formats: tuple[str, ...], repository: Path | None, **flags: Any) -> None:
    """Start Triton and the gateway, until Ctrl-C.

    With TRITON_URL set, the gateway uses that Triton and no other is started. With --config the
    gateway follows the file: what can change while it serves does, within a second or on SIGHUP.

    \b
    Example: carlarl serve --port 8080
    Example: carlarl serve --config carlarl.yaml --profile production
    """
    from carlarl.serving import cleanup, log, service

    given = {"model_repository": repository, **flags}
    settings = read_settings(**given)
    # The gateway's process reads file and environment itself. A flag must win there too.
    os.environ.update({k.upper(): str(v) for k, v in given.items() if v is not None})
    voice = log.voice(settings)
    try:
        with cleanup.own_folder() as folder:
            service.serve(settings, formats, folder, voice.say, voice.warn)
    except (CommandError, ConversionError) as error:
        voice.fail(str(error))
        sys.exit(1)
