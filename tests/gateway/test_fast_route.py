"""Usual requests never reach the framework, so that comparing both ways compares two things."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from gateway.fast import FastPredict, gone
from gateway.joining import Joiner
from gateway.metrics import Metrics
from gateway.predict import Predictor
from gateway.settings import Settings
from gateway.triton import Triton
from gateway.versions import Versions

OBSERVATION = {"speed": 25.5, "steering": 0.1, "sensors": [0.8, 0.2, 0.5, 0.9, 0.1]}


def body(**fields: Any) -> bytes:
    return json.dumps({"observations": [OBSERVATION], **fields}).encode()


@pytest.mark.parametrize(
    ("content", "headers", "fast"),
    [
        (body(), {}, True),
        (body(deterministic=True), {"content-type": "application/json"}, True),
        (body(seed=3), {"x-request-id": "a"}, True),
        (body(version="v0.2.0"), {}, True),
        (body(seed=3.0), {}, False),
        (body(version="v7.0.0"), {}, False),
        (body(), {"origin": "http://example.org"}, False),
        (body(), {"content-type": "text/plain"}, False),
        (body(typo=1), {}, False),
        (b"{", {}, False),
    ],
)
def test_which_way(triton_http: str, content: bytes, headers: dict[str, str], fast: bool) -> None:
    behind: list[bytes] = []
    sent: list[Any] = []

    async def framework(scope: Any, receive: Any, send: Any) -> None:
        read = scope["headers"] and (await receive())["body"]
        behind.append(read)

    async def receive() -> Any:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> None:
        triton = Triton(f"http://{triton_http}")
        metrics = Metrics()
        versions = Versions(triton, None, metrics)
        await versions.refresh()
        predictor = Predictor(Joiner(triton, metrics, 1, 100), versions, metrics, None)
        app = FastPredict(framework, Settings(), None, versions, predictor)
        named = {"content-length": str(len(content)), **headers}
        scope = {
            "type": "http",
            "path": "/predict",
            "method": "POST",
            "headers": [(k.encode(), v.encode()) for k, v in named.items()],
            "arrived": time.perf_counter(),
        }
        await app(scope, receive, send)
        await triton.close()

    asyncio.run(run())
    if fast:
        assert sent[0]["status"] == 200
        assert behind == []
    else:
        assert sent == []
        assert behind == [content]  # handed on whole


def test_gone_never_waits() -> None:
    async def test() -> None:
        event = asyncio.Event()

        async def waiting() -> Any:
            await event.wait()
            return {"type": "http.disconnect"}

        async def left() -> Any:
            return {"type": "http.disconnect"}

        assert not gone(waiting)
        assert not gone(waiting)
        assert gone(left)
        event.set()
        assert gone(waiting)

    asyncio.run(test())
