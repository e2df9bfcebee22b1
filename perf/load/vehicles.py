"""Vehicles that ask a gateway for their steps, each over one connection."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import msgspec

from perf.load.generator import LoadError
from perf.load.observations import body

UPGRADE = (
    b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class _Answer(msgspec.Struct, gc=False):
    stepId: int  # noqa: N815
    action: dict[str, float] | None = None
    skipped: bool = False


@dataclass
class Saw:
    """Latencies in seconds of the steps that got an action, and how many were skipped."""

    latencies: list[float] = field(default_factory=list)
    skipped: int = 0


class Vehicle(asyncio.Protocol):
    """A vehicle that asks by `POST /predict`."""

    def __init__(self, saw: Saw) -> None:
        """Write what comes into `saw`."""
        self._saw = saw
        self._transport: Any = None
        self._due: deque[float] = deque()
        content = msgspec.json.encode(body())
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
        self._request = head.encode() + content
        self.ready = asyncio.get_running_loop().create_future()
        self.error: str | None = None
        self._closed = False

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self._transport = transport
        self.ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note an error, unless we closed it."""
        if not self._closed:
            self.error = self.error or "the gateway closed a connection"

    def step(self, due: float) -> None:
        """Send one step, or keep it until the answer before it has come."""
        self._due.append(due)
        if len(self._due) == 1:
            self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Take an answer, which comes in one piece, and send the next step that waits."""
        if not data.startswith(b"HTTP/1.1 200") or not data.endswith(b"}"):
            self.error = data.decode(errors="replace")
            return
        self._saw.latencies.append(time.perf_counter() - self._due.popleft())
        if self._due:
            self._transport.write(self._request)

    @property
    def awaits(self) -> bool:
        """Whether an answer is still to come."""
        return bool(self._due)

    def close(self) -> None:
        """End the connection."""
        self._closed = True
        self._transport.close()


class StreamVehicle(Vehicle):
    """A vehicle that asks by `/stream`."""

    def __init__(self, saw: Saw, packed: bool) -> None:
        """Send msgpack where `packed`, else JSON."""
        super().__init__(saw)
        kind = msgspec.msgpack if packed else msgspec.json
        self._opcode = b"\x82" if packed else b"\x81"
        self._encode, self._decode = kind.encode, kind.Decoder(_Answer).decode
        (observation,) = body()["observations"]
        self._step = {"observation": observation, "deterministic": True}
        self._number = 0
        self._steps: dict[int, float] = {}
        self._content = b""

    def connection_made(self, transport: Any) -> None:
        """Ask for the upgrade."""
        self._transport = transport
        transport.write(UPGRADE)

    def step(self, due: float) -> None:
        """Send one step."""
        self._number += 1
        self._steps[self._number] = due
        content = self._encode({"stepId": self._number, **self._step})
        size = len(content)
        length = b"\xfe" + size.to_bytes(2) if size > 125 else bytes([128 | size])
        # Masked with zeros: what a mask costs is the library's of each client.
        self._transport.write(self._opcode + length + bytes(4) + content)

    def data_received(self, data: bytes) -> None:
        """Take the upgrade's answer, then frames."""
        data = self._content + data
        if not self.ready.done():
            head, end, data = data.partition(b"\r\n\r\n")
            if not end or not head.startswith(b"HTTP/1.1 101"):
                self.ready.set_exception(LoadError(head.decode(errors="replace")))
                return
            self.ready.set_result(None)
        while len(data) > 3:
            start = 4 if data[1] == 126 else 2
            end_of = start + (int.from_bytes(data[2:4]) if data[1] == 126 else data[1])
            if len(data) < end_of:
                break
            if data[0] & 15 < 3:
                self._take(data[start:end_of])
            data = data[end_of:]
        self._content = data

    def _take(self, content: bytes) -> None:
        try:
            answer = self._decode(content)
            due = self._steps.pop(answer.stepId)
        except (msgspec.MsgspecError, KeyError):
            self.error = content.decode(errors="replace")
            return
        if answer.action is not None:
            self._saw.latencies.append(time.perf_counter() - due)
        elif answer.skipped:
            self._saw.skipped += 1
        else:
            self.error = content.decode(errors="replace")

    @property
    def awaits(self) -> bool:
        """Whether an answer is still to come."""
        return bool(self._steps)
