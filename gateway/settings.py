"""All environment variables of the service, read once into one frozen object."""

import re
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

TRITON_PORTS = ("triton_http_port", "triton_grpc_port", "triton_metrics_port")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
VERSION_PATTERN = r"^v(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})$"
_ORIGIN = re.compile(r"https?://[^\s/]+")


class SettingsError(ValueError):
    """A bad setting; the text names it, its value and what is allowed."""


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


def _field(default: object, meaning: str, allowed: str, **bounds: Any) -> Any:
    return Field(default, description=meaning, json_schema_extra={"allowed": allowed}, **bounds)


def _port(default: int, meaning: str) -> Any:
    return _field(default, meaning, "a whole number from 1 to 65535", ge=1, le=65535)


class Settings(BaseSettings):
    """Every setting of the service; a field's environment variable is its name in capitals.

    An empty variable counts as unset. Build it with `read_settings`, which turns bad values
    into sentences.
    """

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, extra="forbid")

    artifact_dir: Path = _field(Path("artifacts"), "Folder of the versioned policies.", "a folder")
    model_repository: Path = _field(
        Path("model_repository"), "Folder that Triton serves.", "a folder"
    )
    artifact_public_key: str | None = _field(
        None,
        "Ed25519 public key that artifacts must be signed by; unset: unsigned ones are accepted.",
        "a public key in PEM, or the path of a file that holds one",
    )
    model_version: str | None = _field(
        None,
        "Policy version that answers where a request names none; unset: the active one.",
        "a semantic version such as v0.1.0",
        pattern=VERSION_PATTERN,
    )
    use_gpu: Annotated[bool, BeforeValidator(_switch)] = _field(
        False, "Whether the embedded Triton runs the policy on a GPU.", "0 or 1"
    )
    host: str = _field(
        "127.0.0.1",
        "Address that the gateway listens on.",
        "a host name or an IP address",
        pattern=r"^[A-Za-z0-9._:-]+$",
    )
    port: int = _port(8080, "Port that the gateway listens on.")
    workers: int = _field(1, "Gateway processes.", "a whole number from 1 to 256", ge=1, le=256)
    log_level: str = _field(
        "info",
        "Least level that is logged.",
        f"one of {', '.join(LOG_LEVELS)}",
        pattern=f"^({'|'.join(LOG_LEVELS)})$",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)] = _field(
        ("*",),
        "Origins whose pages may call the gateway.",
        "* or origins such as https://example.org, separated by commas",
    )
    triton_url: str | None = _field(
        None,
        "Triton's HTTP endpoint; unset: an embedded Triton on this machine.",
        "a URL such as http://localhost:8000",
        pattern=r"^http://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?/?$",
    )
    triton_http_port: int = _port(8000, "HTTP port of the embedded Triton.")
    triton_grpc_port: int = _port(8001, "gRPC port of the embedded Triton.")
    triton_metrics_port: int = _port(8002, "Metrics port of the embedded Triton.")
    api_keys_file: Path | None = _field(
        None,
        "File with the SHA-256 (hex) of each API key, one a line; unset: no key is asked for.",
        "a file",
    )
    max_body_bytes: int = _field(
        1_048_576,
        "Largest request body, bytes.",
        "a whole number from 1 to 1073741824",
        ge=1,
        le=1 << 30,
    )
    request_timeout_ms: int = _field(
        1000,
        "Deadline of one request, milliseconds.",
        "a whole number from 1 to 600000",
        ge=1,
        le=600_000,
    )
    cache_bytes: int = _field(
        0,
        "Memory for the actions of deterministic observations seen before; 0: no cache.",
        "a whole number from 0 to 68719476736",
        ge=0,
        le=1 << 36,
    )
    calls_in_flight: int = _field(
        2,
        "Triton calls of one model under way at a time; what comes meanwhile is joined.",
        "a whole number from 1 to 64",
        ge=1,
        le=64,
    )
    max_waiting: int = _field(
        10_000,
        "Observations that may wait for a call; more are refused with 429.",
        "a whole number from 0 to 1000000",
        ge=0,
        le=1_000_000,
    )
    max_connections: int = _field(
        4000,
        "Connections that one gateway process serves at a time; more are refused with 503.",
        "a whole number from 1 to 1000000",
        ge=1,
        le=1_000_000,
    )
    restart_tries: int = _field(
        5,
        "How often in a row `carlarl serve` starts Triton or the gateway again; 0: never.",
        "a whole number from 0 to 1000",
        ge=0,
        le=1000,
    )
    shutdown_notice_s: float = _field(
        1.0,
        "Seconds from SIGTERM, with /readyz already failing, for which everything is served.",
        "a number from 0 to 600",
        ge=0,
        le=600,
        allow_inf_nan=False,
    )
    shutdown_timeout_s: int = _field(
        10,
        "Seconds after that until what is not answered is cut off.",
        "a whole number from 0 to 600",
        ge=0,
        le=600,
    )
    git_commit: str | None = _field(
        None,
        "The service's commit, for /healthz; unset: asked of git where this is a checkout.",
        "a commit",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
    )

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        """Refuse equal ports, of which an embedded Triton makes there be four."""
        taken: dict[int, str] = {}
        for name in ("port", *TRITON_PORTS) if self.triton_url is None else ():
            port = getattr(self, name)
            if port in taken:
                raise PydanticCustomError(
                    "equal_ports",
                    "{first}={port} and {second}={port}: must be two different ports",
                    {"first": taken[port], "second": name.upper(), "port": port},
                )
            taken[port] = name.upper()
        return self

    @property
    def gateway_url(self) -> str:
        """Where a caller on this machine reaches the gateway."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def triton_endpoint(self) -> str:
        """Triton's HTTP endpoint: `triton_url`, or the embedded server's where that is unset."""
        return self.triton_url or f"http://127.0.0.1:{self.triton_http_port}"


def read_settings(**overrides: object) -> Settings:
    """Read the environment; an override that is not None wins over its variable.

    Raises SettingsError with one sentence for each bad value.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError("\n".join(_sentence(problem) for problem in error.errors())) from None


def _sentence(problem: Any) -> str:
    if not problem["loc"]:  # of several fields together
        return str(problem["msg"])
    name = str(problem["loc"][0])
    field = Settings.model_fields.get(name)
    if field is None:
        return f"{name}: there is no such setting"
    extra = field.json_schema_extra
    allowed = extra["allowed"] if isinstance(extra, dict) else ""
    return f"{name.upper()}={problem['input']}: must be {allowed}"
