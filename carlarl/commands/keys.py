"""The command that makes an API key for the gateway."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

import click

from carlarl.commands.options import Failure, read


@click.group()
def keys() -> None:
    """API keys of the gateway.

    Example: carlarl keys new --name agents --file keys
    """


@keys.command()
@click.option("--name", default="", help="Whose key it is: a comment in the file.")
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of hashed keys, made where there is none. [env: API_KEYS_FILE]",
)
def new(name: str, file: Path | None) -> None:
    """Make a key: it is printed once, and only its SHA-256 is added to the file.

    A running gateway takes it within a second or two.

    Example: carlarl keys new --name agents --file keys
    """
    target = file or read().api_keys_file
    if target is None:
        raise click.UsageError("say with --file, or API_KEYS_FILE, which file the keys are in")
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
        raise Failure(f"{target}: the key can't be added ({error})") from None
    click.echo(f"{target}: added the new key's hash; this is the key, shown once:", err=True)
    click.echo(key)


COMMANDS = (keys,)
