"""The error that nobody foresaw: its trace goes to the log, never to the caller."""

import asyncio

import httpx
import pytest

from gateway.app import create_app
from gateway.config.settings import Settings
from gateway.triton.client import Triton
from tests.gateway.processes import check_envelope


class Broken(Triton):
    """A client with a bug."""

    async def index(self, timeout_s: float) -> list[str]:
        raise RuntimeError("the bug")


def test_an_unforeseen_error(caplog: pytest.LogCaptureFixture) -> None:
    app = create_app(Settings(), Broken("http://127.0.0.1:1"))

    async def ask() -> tuple[httpx.Response, str]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get("/versions"), (await client.get("/metrics")).text

    response, metrics = asyncio.run(ask())
    details = check_envelope(response, 500, "INTERNAL_ERROR")
    assert "bug" not in response.text
    assert "RuntimeError: the bug" in caplog.text
    assert details["request_id"] in caplog.text
    assert 'carla_rl_errors_total{code="INTERNAL_ERROR"} 1.0' in metrics
