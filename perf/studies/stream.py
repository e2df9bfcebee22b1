"""`/stream` against `/predict`, as a fleet drives: `python -m perf.studies.stream`.

Each vehicle has one connection, and its steps are due at a fixed rate; the vehicles are spread
evenly over the time between two steps. The loop is open: a latency counts from when its step was
due. Over `/predict` a step is sent after the answer to the last one, and its wait counts; over
`/stream` it is sent at once, and the gateway may answer `skipped`, which has no latency. The ways
are measured in turns. The load generator is one process; the table has its own CPU time.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from contextlib import closing
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click
import msgspec
import numpy as np
import uvloop
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from perf.bench.command import heading, say, study
from perf.bench.request_forms import in_turns
from perf.bench.tables import Table, spread
from perf.load import processes
from perf.load.generator import Load, LoadError
from perf.load.observations import body
from perf.studies.usage import cpu_s

FLEETS = (1, 100)
WAYS = ("/predict", "/stream, JSON", "/stream, msgpack")
LAST_ANSWERS_S = 5.0
STEP = {"observation": body()["observations"][0], "deterministic": True}


class Round(NamedTuple):
    """Milliseconds, CPU seconds in a second, and skipped steps of one way."""

    p50: float
    p99: float
    gateway: float
    triton: float
    generator: float
    skipped: int


@dataclass
class Fleet:
    """Vehicles that begin together once all are connected, and what they saw."""

    url: str
    vehicles: int
    rate: float
    seconds: float
    latencies: list[float] = field(default_factory=list)
    """In seconds, of the steps that got an action."""
    skipped: int = 0

    async def _dues(self, index: int) -> list[float]:
        """Give when a vehicle's steps are due."""
        await self._all.wait()
        offset = index / self.vehicles / self.rate
        began = time.perf_counter() + 0.1 + offset
        steps = math.ceil((self.seconds - offset) * self.rate)
        return [began + number / self.rate for number in range(steps)]

    async def _by_predict(self, index: int) -> None:
        headers, content = [("Content-Type", "application/json")], json.dumps(body()).encode()
        load = Load.predict(self.url, headers, content, 1, self.seconds)
        reader, writer = await asyncio.open_connection(load.host, load.port)
        with closing(writer):
            for due in await self._dues(index):
                await asyncio.sleep(due - time.perf_counter())
                writer.write(load.request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"\ncontent-length: (\d+)", head, re.IGNORECASE)
                answer = await reader.readexactly(int(length[1]) if length else 0)
                if not head.startswith(b"HTTP/1.1 200"):
                    raise LoadError(answer.decode(errors="replace"))
                self.latencies.append(time.perf_counter() - due)

    async def _by_stream(self, index: int, kind: Any) -> None:
        """Drive a vehicle by `/stream`, in `msgspec.json` or `msgspec.msgpack`."""
        address = f"ws://{urlsplit(self.url).netloc}/stream"
        async with connect(address, compression=None, ping_interval=None, proxy=None) as socket:
            dues = await self._dues(index)

            async def send() -> None:
                for number, due in enumerate(dues):
                    await asyncio.sleep(due - time.perf_counter())
                    step = kind.encode({"stepId": number, **STEP})
                    await socket.send(step, text=kind is msgspec.json)

            sending = asyncio.create_task(send())
            for _ in dues:  # each step has one answer
                answer = kind.decode(await socket.recv(decode=False))
                if "action" in answer:
                    self.latencies.append(time.perf_counter() - dues[answer["stepId"]])
                elif answer.get("skipped"):
                    self.skipped += 1
                else:
                    raise LoadError(str(answer))
            await sending

    async def drive(self, way: str) -> None:
        """Drive for `seconds`. Raises LoadError where a step fails or gets no answer."""
        self._all = asyncio.Barrier(self.vehicles)
        kind = msgspec.msgpack if "msgpack" in way else msgspec.json
        each = (
            self._by_predict(index) if way == "/predict" else self._by_stream(index, kind)
            for index in range(self.vehicles)
        )
        try:
            async with asyncio.timeout(self.seconds + LAST_ANSWERS_S):
                await asyncio.gather(*each)
        except TimeoutError:
            raise LoadError(f"{way}: a step got no answer") from None
        except (OSError, EOFError, WebSocketException) as error:
            raise LoadError(f"{way}: {error}") from None


def measure(url: str, pid: int, way: str, vehicles: int, rate: float, seconds: float) -> Round:
    """Measure one way after a second of warming; `carlarl serve` has the process id `pid`.

    Raises LoadError.
    """
    uvloop.run(Fleet(url, vehicles, rate, 1.0).drive(way))
    fleet = Fleet(url, vehicles, rate, seconds)
    before, began = (*cpu_s(pid), time.process_time()), time.monotonic()
    uvloop.run(fleet.drive(way))
    took, now = time.monotonic() - began, (*cpu_s(pid), time.process_time())
    gateway, triton, own = ((b - a) / took for a, b in zip(before, now, strict=True))
    p50, p99 = np.percentile(fleet.latencies, (50, 99)) * 1000
    return Round(float(p50), float(p99), gateway, triton, own, fleet.skipped)


def table(found: dict[tuple[int, str], list[Round]]) -> Table:
    """Show medians of the rounds, and their ranges."""
    head = ["vehicles", "way", "p50 ms", "p99 ms", "CPU of the gateway, s/s", "of Triton"]
    shown = Table([*head, "of the load generator", "skipped"])
    for (vehicles, way), rounds in found.items():
        *figures, skipped = zip(*rounds, strict=True)
        cells = [spread(one, n) for one, n in zip(figures, (2, 2, 3, 3, 3), strict=True)]
        shown.rows.append([str(vehicles), f"`{way}`", *cells, f"{sum(skipped):,}"])
    return shown


@study(rounds=5, seconds=10.0)
@click.option("--rate", default=20.0, show_default=True, help="Steps of one vehicle a second.")
def main(rounds: int, seconds: float, rate: float) -> None:
    """Measure, and write the table."""
    cases = list(product(FLEETS, WAYS))
    found: dict[tuple[int, str], list[Round]] = {case: [] for case in cases}
    with processes.gateway() as served:
        for turn, (vehicles, way) in in_turns(cases, rounds):
            one = measure(served.url, served.pid, way, vehicles, rate, seconds)
            found[vehicles, way].append(one)
            say(f"round {turn}: {vehicles} vehicles, {way}: p50 {one.p50:.2f} ms")
    note = "the load generator ran on the same cores"
    click.echo(heading("perf.studies.stream", note, rounds=rounds, seconds=seconds, rate=rate))
    click.echo(table(found).markdown())


if __name__ == "__main__":
    main()
