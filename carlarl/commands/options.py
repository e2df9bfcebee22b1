"""What the commands share: types of options, options, settings, and calls of the gateway."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from carlarl.errors import CommandError
from converters.artifact.versions import triton_version
from gateway.config.profiles import PROFILES
from gateway.config.settings import read_settings

Decorator = Callable[[Any], Any]

FORMATS = ("onnx", "torchscript", "tensorrt")

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
"""A file that must exist."""
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
"""A file that the command writes."""


class Checked(click.ParamType[Any]):
    """A text that `parse` turns into a value. If `parse` raises ValueError, that is bad use."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        """Take the name that the help shows, and the function."""
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the value."""
        try:
            return self._parse(value)
        except ValueError as error:
            return self.fail(str(error), param, ctx)


class Many(click.ParamType[tuple[Any, ...]]):
    """Values of one type, separated by commas; no value may be there twice."""

    def __init__(self, one: click.ParamType[Any], name: str | None = None) -> None:
        """Take the type of one value, and another name for it in the help."""
        self._one = one
        self.name = f"{name or one.name},…"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[Any, ...]:
        """Return the values."""
        if isinstance(value, tuple):
            return value
        values = [self._one.convert(part.strip(), param, ctx) for part in value.split(",")]
        twice = next((one for one in values if values.count(one) > 1), None)
        if twice is not None:
            self.fail(f"{twice} is there twice", param, ctx)
        return tuple(values)


def _version(text: str) -> str:
    triton_version(text)
    return text


def _capability(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d?\.\d", text, re.ASCII):
        raise ValueError(f"{text!r}: give them like 8.6")
    return text


VERSION = Checked("vX.Y.Z", _version)
CAPABILITIES = Many(Checked("X.Y", _capability))
FORMAT_LIST = Many(click.Choice(FORMATS), "FORMAT")
NAMES = Many(click.STRING, "NAME")


def together(*options: Decorator) -> Decorator:
    """Make one decorator of several options."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def folder_option(flag: str, variable: str, meaning: str) -> Decorator:
    """Make an option for a folder that has a setting too."""
    return click.option(flag, type=click.Path(path_type=Path), help=f"{meaning} [env: {variable}]")


artifacts_option = folder_option("--artifacts", "ARTIFACT_DIR", "Folder of versioned artifacts.")
repository_option = folder_option("--repository", "MODEL_REPOSITORY", "Triton's model repository.")
url_option = click.option(
    "--url", help="The gateway. [default: http://127.0.0.1:8080, or what HOST and PORT say]"
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
    help="The profile of that file to use. [env: PROFILE; default: development]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
api_key_option = click.option(
    "--api-key", envvar="API_KEY", help="The gateway's key. [env: API_KEY]"
)


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Turn a missing package into an error that names the extra which installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise CommandError(
            f"this command needs the package {error.name}, which comes with the extra {name}: "
            f"pip install -e '.[{name}]'"
        ) from None


def public_key(given: str | Path | None) -> Any:
    """Return the key that must have signed the artifacts: the flag's, the setting's, or None."""
    given = str(given) if given is not None else read_settings().artifact_public_key
    if given is None:
        return None
    with extra("convert"):
        from converters.artifact import signature
    return signature.public_key(given)


def gateway_url(url: str | None) -> str:
    """Return the gateway's URL: `--url`, or the address in the settings."""
    if url is None:
        return str(read_settings().gateway_url)
    if not url.startswith(("http://", "https://")):
        raise click.UsageError(f"--url: {url!r} must begin with http:// or https://")
    return url.rstrip("/")


def call_gateway(
    url: str | None, path: str, api_key: str | None, body: Any = None, method: str = "POST"
) -> dict[str, Any]:
    """Send `body` as JSON to a running gateway and return its answer.

    Raises CommandError if nobody answers, if no gateway answers, or if the gateway refuses.
    """
    import httpx

    base = gateway_url(url)
    headers = {} if api_key is None else {"X-API-Key": api_key}
    no_proxy: dict[str, None] = {base: None} if url is None else {}
    try:
        with httpx.Client(headers=headers, timeout=30, mounts=no_proxy) as client:
            answer = client.request(method, base + path, json=body)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise CommandError(f"{base}: no answer ({error}); is `carlarl serve` running?") from None
    where = f"{base}{path}: status {answer.status_code}"
    try:
        content: dict[str, Any] = answer.json()
    except ValueError:
        raise CommandError(f"{where}, and no JSON") from None
    if not isinstance(content, dict) or (answer.is_error and "message" not in content):
        raise CommandError(f"{where}: this is no gateway of CarlaRL")
    if answer.is_error:
        problems = content.get("details", {}).get("validation_errors", [])
        detail = "".join(f"\n  {problem['field']}: {problem['message']}" for problem in problems)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            detail = "; give it with --api-key, or in API_KEY"
        message = "" if problems else f" {content.get('message')}"  # which tells the first problem
        raise CommandError(f"{content.get('error')}:{message}{detail}")
    return content
