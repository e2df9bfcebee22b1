"""A gateway looks for cycles seldom, so requests, refusals and connections must leave none."""

from __future__ import annotations

import json
import socket

import httpx
import pytest

from tests.gateway.processes import OBSERVATION, gateway_process

COUNTED = """
import gc, gateway.app
from gateway.http import routes
from starlette.requests import Request
gateway.app._collect_seldom = gc.disable
async def livez(self, _: Request):
    return routes._json({"status": str(gc.collect())})
routes.Routes.livez = livez
"""
GOOD = json.dumps({"observations": [OBSERVATION], "deterministic": True}).encode()


def unreachable(client: httpx.Client) -> int:
    """Have the gateway collect, and tell how many objects no one could reach."""
    return int(client.get("/livez").json()["status"])


@pytest.mark.parametrize(
    ("path", "headers", "body", "status"),
    [
        ("/predict", {}, GOOD, 200),
        ("/predict", {}, b"{}", 422),
        ("/predict", {}, b" " * 100_000, 422),
        ("/predict", {"X-Deadline-Ms": "x"}, GOOD, 422),
        ("/predict", {"Content-Type": "text/plain"}, GOOD, 415),
        ("/predict", {"Connection": "close"}, GOOD, 200),
    ],
)
def test_requests_leave_no_cycles(
    triton_http: str, path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    with (
        gateway_process(before=COUNTED, TRITON_URL=f"http://{triton_http}") as url,
        httpx.Client(base_url=url) as client,
    ):
        for _ in range(5):
            client.post(path, content=body, headers=headers)
        unreachable(client)
        for _ in range(50):
            assert client.post(path, content=body, headers=headers).status_code == status
        assert unreachable(client) < 50  # what the golden inference and the probe leave


def test_connections_leave_no_cycles(triton_http: str) -> None:
    with (
        gateway_process(before=COUNTED, TRITON_URL=f"http://{triton_http}") as url,
        httpx.Client(base_url=url) as client,
    ):
        address = httpx.URL(url)
        unreachable(client)
        for _ in range(50):
            with socket.create_connection((address.host, address.port)) as connection:
                connection.sendall(b"POST /predict HTTP/1.1\r\nContent-Length: 10\r\n\r\n{")
        assert unreachable(client) < 50
