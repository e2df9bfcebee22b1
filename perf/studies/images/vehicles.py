"""Vehicles that send a picture at each step of their control stream."""

from __future__ import annotations

import asyncio
import collections
import time
from dataclasses import dataclass, field

import msgspec
from websockets.asyncio.client import connect


@dataclass
class Drive:
    """What came of the steps of all vehicles."""

    due: int = 0
    answered: int = 0
    others: collections.Counter[str] = field(default_factory=collections.Counter)
    """Steps that were skipped or refused, by what was said of them."""
    latencies_ms: list[float] = field(default_factory=list)
    """Of the answered steps, from when each was due."""

    @property
    def lost(self) -> int:
        """Steps without an action."""
        return self.due - self.answered


async def drive(url: str, pixels: bytes, vehicles: int, hz: float, seconds: float) -> Drive:
    """Let vehicles send a picture `hz` times a second, each at its own moment; the loop is open."""
    seen, steps = Drive(), round(hz * seconds)
    begin = time.perf_counter() + 2.0  # by then all are connected

    async def vehicle(index: int) -> None:
        first = begin + index / vehicles / hz
        address = f"ws{url.removeprefix('http')}/stream"
        async with connect(address, compression=None, proxy=None, max_queue=None) as connection:

            async def listen() -> None:
                for _ in range(steps):
                    said = msgspec.msgpack.decode(await connection.recv(decode=False))
                    now = time.perf_counter()
                    if "action" in said:
                        seen.answered += 1
                        seen.latencies_ms.append(1000 * (now - first - said["stepId"] / hz))
                    else:
                        seen.others[str(said.get("error", "skipped"))] += 1

            listener = asyncio.create_task(listen())
            for step in range(steps):
                await asyncio.sleep(first + step / hz - time.perf_counter())
                frame = {"stepId": step, "observation": pixels, "deterministic": True}
                seen.due += 1
                await connection.send(msgspec.msgpack.encode(frame))
            await asyncio.wait_for(listener, 10)

    await asyncio.gather(*map(vehicle, range(vehicles)))
    return seen
