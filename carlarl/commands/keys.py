"""`carlarl keys`: make an API key for the gateway."""

import hashlib
import os
import secrets
from pathlib import Path

import click

from carlarl.commands.options import NEW_FILE
from carlarl.errors import CommandError
from gateway.config.settings import read_settings


@click.group()
def keys() -> None:
    """API keys of the gateway.

    Example: carlarl keys new --name agents --file keys
    """


@keys.command()
@click.option("--name", default="", help="Who uses the key. It is a comment in the file.")
@click.option(
    "--file",
    type=NEW_FILE,
    help="File of hashed keys. It is created if it does not exist. [env: API_KEYS_FILE]",
)
def new(name: str, file: Path | None) -> None:
    """Make a key and print it once. Only its SHA-256 is added to the file.

    A running gateway accepts the key within two seconds.

    Example: carlarl keys new --name agents --file keys
    """
    target = file or read_settings().api_keys_file
    if target is None:
        raise click.UsageError("name the file of keys with --file, or with API_KEYS_FILE")
    if not name.isprintable():
        raise click.UsageError("--name: must be one line of text")
    key = secrets.token_urlsafe(32)
    line = f"{hashlib.sha256(key.encode()).hexdigest()}{f'  # {name}' if name else ''}\n"
    try:
        opened = os.open(target, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(opened, "r+", encoding="utf-8") as content:
            before = content.read()
            content.write(line if not before or before.endswith("\n") else f"\n{line}")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{target}: the key can't be added ({error})") from None
    click.echo(f"{target}: added the new key's hash. This is the key, shown only once:", err=True)
    click.echo(key)
