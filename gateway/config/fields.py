"""The kinds of settings: how each is described, and how the text of a variable is read."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

VERSION_PATTERN = r"^v(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})$"
SECRET = re.compile(r"[A-Za-z0-9_-]{8,256}")
_ORIGIN = re.compile(r"https?://[^\s/]+")


def _switch(value: object) -> object:
    if value not in ("0", "1", False, True):
        raise ValueError(value)
    return value in ("1", True)


def _origins(value: object) -> object:
    if not isinstance(value, str):
        return value
    origins = tuple(part.strip() for part in value.split(",") if part.strip())
    if origins != ("*",) and not (origins and all(_ORIGIN.fullmatch(o) for o in origins)):
        raise ValueError(value)
    return origins


def _versions(value: object) -> object:
    parts = value.split(",") if isinstance(value, str) else value
    versions = tuple(part.strip() for part in parts if part.strip())  # type: ignore[attr-defined]
    if not all(re.match(VERSION_PATTERN, one) for one in versions):
        raise ValueError(value)
    return versions


def _secret(value: object) -> object:
    if isinstance(value, str) and "/" in value:
        with suppress(OSError):
            value = Path(value).read_text().strip()
    if isinstance(value, str) and not SECRET.fullmatch(value):
        raise ValueError
    return value


def _secrets(value: object) -> object:
    if isinstance(value, str) and "/" in value:
        with suppress(OSError):
            value = Path(value).read_text()
    if isinstance(value, str):
        parts = value.replace(",", " ").split()
        if not parts or not all(map(SECRET.fullmatch, parts)):
            raise ValueError
        value = ",".join(parts)
    return value


def field(default: object, meaning: str, allowed: str, *, live: bool = False, **bounds: Any) -> Any:
    """Describe a setting; `live` ones change while the gateway serves."""
    extra: Any = {"allowed": allowed, "live": live}
    return Field(default, description=meaning, json_schema_extra=extra, **bounds)


def one_of(names: tuple[str, ...], default: str, meaning: str, *, live: bool = False) -> Any:
    """Describe a text that must be one of `names`."""
    pattern = f"^({'|'.join(names)})$"
    return field(default, meaning, f"one of {', '.join(names)}", live=live, pattern=pattern)


def number(default: float, meaning: str, low: int, high: int, *, live: bool = False) -> Any:
    """Describe a number from `low` to `high`, a whole one where the default is an int."""
    what = "a whole number" if isinstance(default, int) else "a number"
    allowed = f"{what} from {low} to {high}"
    return field(default, meaning, allowed, live=live, ge=low, le=high, allow_inf_nan=False)


def tcp_port(default: int, meaning: str) -> Any:
    """Describe a TCP port."""
    return number(default, meaning, 1, 65535)


Switch = Annotated[bool, BeforeValidator(_switch)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)]
Versions = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_versions)]
Secret = Annotated[SecretStr | None, BeforeValidator(_secret)]
Secrets = Annotated[SecretStr | None, BeforeValidator(_secrets)]
