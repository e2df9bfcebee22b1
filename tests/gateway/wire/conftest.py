"""What the tests of the wire share: the right answer to `GOOD`, and gateways with a limit each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.processes import gateway_process
from tests.gateway.wire.wire import ask, request


@pytest.fixture(scope="session")
def actions(gateway_url: str) -> Any:
    """What every gateway of these tests must answer to `GOOD`."""
    return ask(gateway_url, request()).actions()


@pytest.fixture(scope="session")
def triton_url(triton_http: str) -> str:
    return f"http://{triton_http}"


@pytest.fixture(scope="session")
def keyed_gateway(triton_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a gateway that asks for the key `a-good-key`."""
    keys: Path = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(hashlib.sha256(b"a-good-key").hexdigest() + "\n")
    with gateway_process(TRITON_URL=triton_url, API_KEYS_FILE=str(keys)) as url:
        yield url


@pytest.fixture(scope="module")
def own_gateway(triton_url: str) -> Iterator[str]:
    """URL of a gateway that no other module talks to, with settings as they are by default."""
    with gateway_process(TRITON_URL=triton_url) as url:
        yield url
