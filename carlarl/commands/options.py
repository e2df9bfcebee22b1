"""Options, settings and failures that the commands share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from gateway.profiles import PROFILES
from gateway.settings import Settings, SettingsError, read_settings

F = Callable[..., Any]

FORMATS = ("onnx", "torchscript", "tensorrt")

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
"""A file that must be there."""


class Failure(click.ClickException):
    """One sentence for the user, exit status 1."""

    def show(self, file: Any = None) -> None:
        """Print it to standard error."""
        click.echo(f"carlarl: {self.message}", err=True)


class Version(click.ParamType[str]):
    """`vX.Y.Z`, checked."""

    name = "vX.Y.Z"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Give the version; anything else is bad use."""
        from converters.artifact.versions import triton_version

        try:
            triton_version(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class Names(click.ParamType[tuple[str, ...]]):
    """Names separated by commas."""

    name = "NAME,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        """Split them."""
        if isinstance(value, tuple):
            return value
        return tuple(dict.fromkeys(part.strip() for part in value.split(",")))


class Formats(Names):
    """Formats separated by commas."""

    name = "FORMAT,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        """Give the formats, each once; an unknown one is bad use."""
        formats = super().convert(value, param, ctx)
        if unknown := [name for name in formats if name not in FORMATS]:
            self.fail(f"{', '.join(unknown)!r}: choose from {', '.join(FORMATS)}", param, ctx)
        return formats


class Capabilities(Names):
    """Compute capabilities separated by commas."""

    name = "X.Y,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        """Give them; anything that is not like `8.6` is bad use."""
        parts = super().convert(value, param, ctx)
        if wrong := [part for part in parts if not re.fullmatch(r"[1-9]\d?\.\d", part, re.ASCII)]:
            self.fail(f"{', '.join(wrong)!r}: give them like 8.6", param, ctx)
        return parts


def folder_option(flag: str, variable: str, meaning: str) -> Callable[[F], F]:
    """Make an option for a folder that has a setting too."""
    return click.option(flag, type=click.Path(path_type=Path), help=f"{meaning} [env: {variable}]")


artifacts_option = folder_option("--artifacts", "ARTIFACT_DIR", "Folder of versioned artifacts.")
repository_option = folder_option("--repository", "MODEL_REPOSITORY", "Triton's model repository.")
url_option = click.option(
    "--url", help="The gateway. [default: http://127.0.0.1:8080, or as HOST and PORT say]"
)
config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="YAML file with settings for each profile. [env: CONFIG_FILE]",
)
profile_option = click.option(
    "--profile",
    type=click.Choice(PROFILES),
    help="Which of its profiles is in force. [env: PROFILE; default: development]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
api_key_option = click.option(
    "--api-key", envvar="API_KEY", help="The gateway's key. [env: API_KEY]"
)


def read(**overrides: Any) -> Settings:
    """Read the settings; a flag that was given wins over its variable."""
    try:
        return read_settings(**overrides)
    except SettingsError as error:
        raise Failure(str(error)) from None


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Turn a missing package into the name of the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise Failure(
            f"this command needs the package {error.name}, which comes with the extra {name}: "
            f"pip install -e '.[{name}]'"
        ) from None


def public_key(given: str | Path | None) -> Any:
    """Read the key that artifacts must be signed by: the flag's, else the setting's, else None."""
    given = str(given) if given is not None else read().artifact_public_key
    if given is None:
        return None
    with extra("convert"):
        from converters.artifact import signature
    try:
        return signature.public_key(given)
    except signature.KeyFileError as error:
        raise Failure(f"the key that artifacts must be signed by: {error}") from None


def gateway_url(url: str | None) -> str:
    """Give the gateway's URL: `--url`, or where the settings have it."""
    if url is None:
        base: str = read().gateway_url
        return base
    if not url.startswith(("http://", "https://")):
        raise click.UsageError(f"--url: {url!r} must begin with http:// or https://")
    return url.rstrip("/")
