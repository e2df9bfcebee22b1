"""All settings of the service, from flags, environment and file, in one frozen object."""

import os
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.config.fields import (
    VERSION_PATTERN,
    Origins,
    Secret,
    Secrets,
    Switch,
    Versions,
    field,
    number,
    one_of,
    tcp_port,
)
from gateway.config.profiles import PROFILES, ProfileError, read_profile

TRITON_PORTS = ("triton_http_port", "triton_grpc_port", "triton_metrics_port")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
LOG_FORMATS = ("text", "json")
ACCESS_LOGS = ("none", "errors", "all")
ACCESS = ("open", "key", "closed")
PAGE_ACCESS = ("open", "closed")  # a browser sends no key when it loads a page


class SettingsError(ValueError):
    """A bad setting; the text names it, its value and what is allowed."""


class Settings(BaseSettings):
    """Every setting of the service; a field's environment variable is its name in capitals.

    An empty variable counts as unset. Build it with `read_settings`, which turns bad values
    into sentences.
    """

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, extra="forbid")

    config_file: Path | None = field(
        None, "YAML file with settings for each profile; unset: none.", "a file"
    )
    profile: str = one_of(
        PROFILES, "development", "Which of the configuration file's profiles is in force."
    )
    artifact_dir: Path = field(Path("artifacts"), "Folder of the versioned policies.", "a folder")
    model_repository: Path = field(
        Path("model_repository"), "Folder that Triton serves.", "a folder"
    )
    artifact_public_key: str | None = field(
        None,
        "Ed25519 public key that artifacts must be signed by; unset: unsigned ones are accepted.",
        "a public key in PEM, or the path of a file that holds one",
    )
    model_version: str | None = field(
        None,
        "Policy version that answers where a request names none; unset: the active one.",
        "a semantic version such as v0.1.0",
        pattern=VERSION_PATTERN,
    )
    serve_versions: Versions = field(
        (),
        "Versions that the embedded Triton loads beside the active one and the one before it.",
        "semantic versions such as v0.1.0, separated by commas",
    )
    use_gpu: Switch = field(
        False, "Whether the embedded Triton runs the policy on a GPU.", "0 or 1"
    )
    host: str = field(
        "127.0.0.1",
        "Address that the gateway listens on.",
        "a host name or an IP address",
        pattern=r"^[A-Za-z0-9._:-]+$",
    )
    port: int = tcp_port(8080, "Port that the gateway listens on.")
    workers: int = number(1, "Gateway processes.", 1, 256)
    log_level: str = one_of(LOG_LEVELS, "info", "Least level that is logged.", live=True)
    log_format: str = one_of(
        LOG_FORMATS, "text", "Lines for people, or one JSON object for each event.", live=True
    )
    access_log: str = one_of(
        ACCESS_LOGS, "errors", "Which answered requests have a line in the log.", live=True
    )
    ssl_certfile: Path | None = field(
        None, "The gateway's certificate chain in PEM; unset: HTTP without TLS.", "a file"
    )
    ssl_keyfile: Path | None = field(None, "The certificate's private key in PEM.", "a file")
    cors_origins: Origins = field(
        ("*",),
        "Origins whose pages may call the gateway.",
        "* or origins such as https://example.org, separated by commas",
        live=True,
    )
    cors_credentials: Switch = field(
        False, "Whether those pages may send cookies and the like; not with *.", "0 or 1", live=True
    )
    triton_url: str | None = field(
        None,
        "Triton's HTTP endpoint; unset: an embedded Triton on this machine.",
        "a URL such as http://localhost:8000",
        pattern=r"^http://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?/?$",
    )
    triton_http_port: int = tcp_port(8000, "HTTP port of the embedded Triton.")
    triton_grpc_port: int = tcp_port(
        8001, "gRPC port of the embedded Triton, or of that at TRITON_URL: models are loaded by it."
    )
    triton_metrics_port: int = tcp_port(8002, "Metrics port of the embedded Triton.")
    triton_secret: Secret = field(
        None,
        "What Triton's closed APIs ask for as the header `carlarl-secret`; unset: one is drawn for "
        "the embedded Triton, none is sent to another.",
        "8 to 256 letters, digits, - and _, or the path of a file that holds them, with a / in it",
    )
    state_secret: Secrets = field(
        None,
        "What signs the state that callers of a policy with a memory hold; of several the first "
        "signs, and all are accepted. Unset: one is made and kept for this user.",
        "secrets of 8 to 256 letters, digits, - and _, separated by commas, or the path of a file "
        "with one a line, with a / in it",
    )
    api_keys_file: Path | None = field(
        None,
        "File with the SHA-256 (hex) of each API key, one a line; unset: no key is asked for.",
        "a file",
        live=True,
    )
    docs_access: str = one_of(
        ACCESS, "open", "Who may read /docs, /redoc, /openapi.json and /asyncapi.json.", live=True
    )
    metrics_access: str = one_of(ACCESS, "open", "Who may read /metrics.", live=True)
    console_access: str = one_of(
        PAGE_ACCESS, "open", "Who may load /console; its calls need a key as others do.", live=True
    )
    rate_limit_per_s: float = number(
        0.0,
        "Observations a second that one caller may send for long; 0: any number.",
        0,
        1_000_000,
        live=True,
    )
    rate_limit_burst: int = number(
        1000, "Observations that one caller may send at once.", 1, 1_000_000, live=True
    )
    max_body_bytes: int | None = field(
        None,
        "Largest request body, bytes; 1048576 where absent, or more where observations need it.",
        "a whole number from 1 to 1073741824",
        live=True,
        ge=1,
        le=1_073_741_824,
    )
    request_timeout_ms: int = number(
        1000, "Deadline of one request, milliseconds.", 1, 600_000, live=True
    )
    cache_bytes: int = number(
        0,
        "Memory for the actions of deterministic observations seen before; 0: no cache.",
        0,
        68_719_476_736,
        live=True,
    )
    calls_in_flight: int = number(
        2,
        "Triton calls of one model under way at a time; what comes meanwhile is joined.",
        1,
        64,
        live=True,
    )
    max_waiting: int = number(
        10_000,
        "Observations that may wait for a call; more are refused with 429.",
        0,
        1_000_000,
        live=True,
    )
    max_connections: int = number(
        4000,
        "Connections that one gateway process serves at a time; of more only probes are served.",
        1,
        1_000_000,
        live=True,
    )
    restart_tries: int = number(
        5,
        "How often in a row `carlarl serve` starts Triton or the gateway again; 0: never.",
        0,
        1000,
    )
    shutdown_notice_s: float = number(
        1.0,
        "Seconds from SIGTERM, with /readyz already failing, for which everything is served.",
        0,
        600,
    )
    shutdown_timeout_s: int = number(
        10, "Seconds after that until what is not answered is cut off.", 0, 600
    )
    git_commit: str | None = field(
        None,
        "The service's commit, for /healthz; unset: asked of git where this is a checkout.",
        "a commit",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        """Refuse settings that contradict each other."""
        for sentence in self._contradictions():
            raise PydanticCustomError("contradiction", "{said}", {"said": sentence})
        return self

    def _contradictions(self) -> Iterator[str]:
        ports = ("port", *TRITON_PORTS) if self.triton_url is None else ()
        for first, second in combinations(ports, 2):
            value = getattr(self, first)
            if value == getattr(self, second):
                equal = f"{first.upper()}={value} and {second.upper()}={value}"
                yield f"{equal}: must be two different ports"
        if self.cors_credentials and "*" in self.cors_origins:
            yield "CORS_CREDENTIALS=1: CORS_ORIGINS must name the origins, * lets every page in"
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            yield "SSL_CERTFILE and SSL_KEYFILE: set both, or neither"
        if "profile" in self.model_fields_set and self.config_file is None:
            yield f"PROFILE={self.profile}: set CONFIG_FILE to the file that has it"
        keyless = [n for n in ("docs_access", "metrics_access") if getattr(self, n) == "key"]
        if keyless and self.api_keys_file is None:
            yield f"{', '.join(keyless).upper()}=key: set API_KEYS_FILE to the file of keys"

    @property
    def gateway_url(self) -> str:
        """Where a caller on this machine reaches the gateway."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        scheme = "http" if self.ssl_certfile is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def triton_token(self) -> str | None:
        """What `triton_secret` hides."""
        return None if self.triton_secret is None else self.triton_secret.get_secret_value()

    @property
    def state_keys(self) -> list[str]:
        """What `state_secret` hides; empty where that is unset."""
        return [] if self.state_secret is None else self.state_secret.get_secret_value().split(",")

    @property
    def triton_endpoint(self) -> str:
        """Triton's HTTP endpoint: `triton_url`, or the embedded server's where that is unset."""
        return self.triton_url or f"http://127.0.0.1:{self.triton_http_port}"


def read_settings(**overrides: object) -> Settings:
    """Read file and environment; an override that is not None wins over its variable.

    Raises SettingsError with one sentence for each bad value.
    """
    return sourced_settings(**overrides)[0]


def sourced_settings(**overrides: object) -> tuple[Settings, dict[str, str]]:
    """Return what `read_settings` does, and where each value comes from.

    That is `flag`, `environment`, `file:` with the profile or `defaults`, or `default`.
    """
    flags = {name: value for name, value in overrides.items() if value is not None}
    fields = Settings.model_fields
    variables = {name.lower(): text for name, text in os.environ.items() if text}
    sources = dict.fromkeys(fields, "default")
    given: dict[str, object] = {}
    chosen = {"profile": "development"} | variables | flags
    path, profile = chosen.get("config_file"), chosen["profile"]
    if path and profile in PROFILES:
        try:
            found = read_profile(Path(str(path)), str(profile), fields)
        except ProfileError as error:
            raise SettingsError(f"CONFIG_FILE={path}: {error}") from None
        for name, (value, section) in found.items():
            if name not in variables:
                # pydantic takes true for 1 where a number is asked for.
                number = isinstance(value, bool) and fields[name].annotation is not bool
                given[name] = str(value).lower() if number else value
                sources[name] = f"file:{section}"
    sources |= {name: "environment" for name in fields if name in variables}
    sources |= {name: "flag" for name in flags if name in fields}
    try:
        return Settings(**{**given, **flags}), sources  # type: ignore[arg-type]
    except ValidationError as error:
        sentences = [_sentence(problem, sources, path) for problem in error.errors()]
        raise SettingsError("\n".join(sentences)) from None


def is_live(name: str) -> bool:
    """Whether the setting changes while the gateway serves."""
    extra = Settings.model_fields[name].json_schema_extra
    return isinstance(extra, dict) and bool(extra["live"])


def _sentence(problem: Any, sources: dict[str, str], path: object) -> str:
    if not problem["loc"]:  # of several fields together
        return str(problem["msg"])
    name = str(problem["loc"][0])
    field = Settings.model_fields.get(name)
    if field is None:
        return f"{name}: there is no such setting"
    extra = field.json_schema_extra
    allowed = extra["allowed"] if isinstance(extra, dict) else ""
    section = sources[name].partition("file:")[2]
    where = f"CONFIG_FILE={path}: {section}: " if section else ""
    shown = "" if name in ("triton_secret", "state_secret") else problem["input"]
    return f"{where}{name if section else name.upper()}={shown}: must be {allowed}"
