"""The HTTP clients that people use, each in a process of its own: every request is answered."""

from __future__ import annotations

import os

import pytest

from perf.studies.proxies import MissingError
from tests.gateway.clients import CLIENTS


@pytest.mark.parametrize("connections", [1, 32])
@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_is_always_answered(name: str, connections: int, gateway_url: str) -> None:
    try:
        came = CLIENTS[name](gateway_url, connections, 0.2)
    except MissingError as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))
    assert not came.errors
    assert came.answered >= connections
    assert came.p50_ms > 0
