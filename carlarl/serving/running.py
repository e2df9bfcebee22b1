"""The services that run on this machine: how another command finds the Triton of a repository."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from carlarl.serving import cleanup
from gateway.config.settings import Settings

_FILE = "service.json"


class Service(NamedTuple):
    """A running `carlarl serve`: its Triton, what an embedded one serves, its MODEL_VERSION."""

    triton: str
    grpc_port: int
    repository: str | None
    pinned: str | None
    secret: str | None


def announce(folder: Path, settings: Settings) -> None:
    """Let other commands of this user find the service of `settings`, by its own `folder`."""
    root = None if settings.triton_url else str(settings.model_repository.resolve())
    url, port = settings.triton_endpoint, settings.triton_grpc_port
    told = Service(url, port, root, settings.model_version, settings.triton_token)
    file = os.open(folder / _FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w") as target:
        json.dump(told, target)


def services(settings: Settings) -> list[Service]:
    """Return the services at TRITON_URL, or without it those that serve MODEL_REPOSITORY."""
    url, root = settings.triton_url, str(settings.model_repository.resolve())
    return [one for one in _living() if (one.triton == url if url else one.repository == root)]


def embedded_at(url: str) -> Service | None:
    """Return the service whose embedded Triton is at `url`: of this user, for root of any."""
    address = urlsplit(url)
    if address.hostname in ("127.0.0.1", "localhost"):
        for one in _living():
            if one.repository is not None and urlsplit(one.triton).port == address.port:
                return one
    return None


def _living() -> Iterator[Service]:
    for folder in cleanup.living():
        with contextlib.suppress(OSError, ValueError, TypeError):  # it has only just begun
            yield Service(*json.loads((folder / _FILE).read_text()))
