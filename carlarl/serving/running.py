"""The services that run on this machine: how another command finds the Triton of a repository."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gateway.config.settings import Settings

_PREFIX = "carlarl-serve-"


class Service(NamedTuple):
    """A running `carlarl serve`: its Triton, what an embedded one serves, its MODEL_VERSION."""

    triton: str
    grpc_port: int
    repository: str | None
    pinned: str | None


@contextlib.contextmanager
def announced(settings: Settings) -> Iterator[None]:
    """Let other commands of this user find the service of `settings` until the block ends.

    The file stays locked meanwhile, so that one which a kill left behind counts for nothing.
    """
    root = None if settings.triton_url else str(settings.model_repository.resolve())
    told = (settings.triton_endpoint, settings.triton_grpc_port, root, settings.model_version)
    number, name = tempfile.mkstemp(".json", _PREFIX)
    with os.fdopen(number, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        json.dump(told, file)
        file.flush()
        try:
            yield
        finally:
            Path(name).unlink(missing_ok=True)


def services(settings: Settings) -> list[Service]:
    """Return the services at TRITON_URL, or without it those that serve MODEL_REPOSITORY."""
    url, root = settings.triton_url, str(settings.model_repository.resolve())
    found = []
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError), path.open() as file:
            if os.getuid() not in (0, os.fstat(file.fileno()).st_uid):
                continue
            text = file.read()
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(Service(*json.loads(text)))
            else:
                if text:  # else its service has not locked it yet
                    path.unlink()
    return [one for one in found if (one.triton == url if url else one.repository == root)]
