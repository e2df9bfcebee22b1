"""Vehicles for the tests: streams to a gateway, whose every frame is held to `/asyncapi.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import jsonschema
import msgspec
from websockets.sync.client import ClientConnection, connect

from tests.gateway.processes import OBSERVATION


class Vehicle:
    """One stream, in JSON or in msgpack."""

    def __init__(self, connection: ClientConnection, packed: bool, frames: Frames) -> None:
        self.connection = connection
        self._packed = packed
        self._frames = frames

    def send(self, step: int, **more: Any) -> None:
        content = {"stepId": step, "observation": OBSERVATION, **more}
        self.send_raw(msgspec.msgpack.encode(content) if self._packed else json.dumps(content))

    def send_raw(self, frame: str | bytes) -> None:
        self.connection.send(frame)

    def send_together(self, *steps: int) -> None:
        """Send steps as JSON, in one write."""
        protocol = self.connection.protocol
        for step in steps:
            content = {"stepId": step, "observation": OBSERVATION}
            protocol.send_text(json.dumps(content).encode())
        self.connection.socket.sendall(b"".join(protocol.data_to_send()))

    def receive(self) -> dict[str, Any]:
        """Return the next frame, which must be of the stream's own kind and as documented."""
        frame = self.connection.recv(timeout=60)
        assert isinstance(frame, bytes if self._packed else str)
        content = msgspec.msgpack.decode(frame) if self._packed else json.loads(frame)
        self._frames.check(content)
        return content

    def ask(self, step: int, **more: Any) -> dict[str, Any]:
        self.send(step, **more)
        return self.receive()


class Frames:
    """What the AsyncAPI document says of the frames that the gateway sends."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._check = {
            name: jsonschema.Draft202012Validator(
                {"$ref": message["payload"]["$ref"], "components": document["components"]}
            )
            for name, message in document["components"]["messages"].items()
        }

    def kinds(self, content: Any) -> set[str]:
        return {name for name, check in self._check.items() if check.is_valid(content)}

    def check(self, content: Any) -> None:
        assert len(self.kinds(content) - {"step"}) == 1, content


@contextmanager
def stream(url: str, *, packed: bool = False, **options: Any) -> Iterator[Vehicle]:
    """Open a stream to the gateway at `url` (http or https)."""
    frames = Frames(httpx.get(url + "/asyncapi.json", verify=options.get("ssl", True)).json())
    with open_stream(url, **options) as connection:
        yield Vehicle(connection, packed, frames)


def open_stream(url: str, **options: Any) -> ClientConnection:
    address = url.replace("http", "ws", 1) + "/stream"
    return connect(address, proxy=None, compression=None, **options)


def metric(url: str, name: str) -> float:
    """Sum of the series whose line begins with `name`."""
    lines = httpx.get(url + "/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))
