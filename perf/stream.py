"""`/stream` against `/predict`, as a fleet drives: `python -m perf.stream`.

Each vehicle has one connection and a step that is due at a fixed rate, the vehicles spread evenly
over the time between two steps. The loop is open: a latency counts from when its step was due. Over
`/predict` a step that is due while the answer before it is still to come is sent behind that
answer, with its wait counted; over `/stream` it is sent at once, and the gateway may answer
`skipped`, which is counted and has no latency. The ways are measured in turns.

The load generator is one process that writes requests made beforehand; its own CPU time is in the
table.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import msgspec
import numpy as np
import psutil
import uvloop

from perf import machine, processes
from perf.observations import body

FLEETS = (1, 100)
WAYS = ("/predict", "/stream, JSON", "/stream, msgpack")
WARM_S = 1.0
LAST_ANSWERS_S = 5.0
UPGRADE = (
    b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class LoadError(Exception):
    """A step failed, or got no answer."""


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
    """One connection, which asks by `POST /predict`."""

    def __init__(self, saw: Saw) -> None:
        """Note in `saw` what came."""
        self._saw = saw
        self._transport: Any = None
        self._due: deque[float] = deque()
        self._body = msgspec.json.encode(body())
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(self._body)}\r\n\r\n"
        self._request = head.encode() + self._body
        self.ready = asyncio.get_running_loop().create_future()
        self.error: str | None = None
        self._closed = False

    def connection_made(self, transport: Any) -> None:
        """Remember the transport."""
        self._transport = transport
        self.ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remember where this should not have been."""
        if not self._closed:
            self.error = self.error or "the gateway closed a connection"

    def step(self, due: float) -> None:
        """Send one step, or have it wait for its turn."""
        self._due.append(due)
        if len(self._due) == 1:
            self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Take an answer, which comes in one piece, and send what waited for it."""
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
    """One connection, which asks by `/stream`."""

    def __init__(self, saw: Saw, packed: bool) -> None:
        """Send msgpack where `packed`, else JSON."""
        super().__init__(saw)
        self._opcode = b"\x82" if packed else b"\x81"
        kind = msgspec.msgpack if packed else msgspec.json
        (observation,) = body()["observations"]
        content = {"stepId": 1_000_000_000, "observation": observation, "deterministic": True}
        start, self._rest = kind.encode(content).split(kind.encode(1_000_000_000))
        self._start, self._encode = start, kind.encode
        self._decode = kind.Decoder(_Answer).decode
        self._steps: dict[int, float] = {}
        self._content = b""
        self._next = 1_000_000_000

    def connection_made(self, transport: Any) -> None:
        """Ask for the upgrade."""
        self._transport = transport
        transport.write(UPGRADE)

    def step(self, due: float) -> None:
        """Send one step."""
        content = self._start + self._encode(self._next) + self._rest
        self._steps[self._next] = due
        self._next += 1
        # Masked with zeros: what a mask costs is the library's of each client.
        head = (
            b"\xfe" + len(content).to_bytes(2)
            if len(content) > 125
            else bytes([128 | len(content)])
        )
        self._transport.write(self._opcode + head + bytes(4) + content)

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


@dataclass(frozen=True)
class Round:
    """What one way took: milliseconds, CPU seconds a second, and steps that were skipped."""

    p50: float
    p99: float
    gateway: float
    triton: float
    generator: float
    skipped: int


async def drive(url: str, way: str, vehicles: int, rate: float, seconds: float, saw: Saw) -> None:
    """Drive for so long; raises LoadError where a step fails or gets no answer."""
    address = urlsplit(url)
    loop = asyncio.get_running_loop()

    def vehicle() -> Vehicle:
        return Vehicle(saw) if way == "/predict" else StreamVehicle(saw, "msgpack" in way)

    fleet: list[Vehicle] = []
    for _ in range(vehicles):
        _, one = await loop.create_connection(vehicle, address.hostname or "", address.port or 80)
        await one.ready
        fleet.append(one)
    began = loop.time() + 0.1
    offset = time.perf_counter() - loop.time()

    def step(one: Vehicle, due: float) -> None:
        one.step(due + offset)
        following = due + 1 / rate
        if following < began + seconds:
            loop.call_at(following, step, one, following)

    for index, one in enumerate(fleet):
        due = began + index / vehicles / rate
        loop.call_at(due, step, one, due)
    await asyncio.sleep(began + seconds - loop.time())
    patience = loop.time() + LAST_ANSWERS_S
    while any(one.awaits for one in fleet) and loop.time() < patience:
        await asyncio.sleep(0.01)
    for one in fleet:
        one.close()
    await asyncio.sleep(0)
    for one in fleet:
        if one.error or one.awaits:
            raise LoadError(f"{way}: {one.error or 'a step got no answer'}")


def measure(url: str, pid: int, way: str, vehicles: int, rate: float, seconds: float) -> Round:
    """Measure one way after a second of warming; `carlarl serve` has the process id `pid`.

    Raises LoadError.
    """
    uvloop.run(drive(url, way, vehicles, rate, WARM_S, Saw()))
    saw = Saw()
    before, own = cpu_s(pid), time.process_time()
    began = time.monotonic()
    uvloop.run(drive(url, way, vehicles, rate, seconds, saw))
    took = time.monotonic() - began
    own = (time.process_time() - own) / took
    gateway, triton = ((now - then) / took for now, then in zip(cpu_s(pid), before, strict=True))
    p50, p99 = np.percentile(saw.latencies, (50, 99)) * 1000
    return Round(float(p50), float(p99), gateway, triton, own, saw.skipped)


def cpu_s(pid: int) -> tuple[float, float]:
    """Give the CPU seconds that the gateway and that Triton, with its models, have used."""
    used = {"gateway": 0.0, "triton": 0.0}
    root = psutil.Process(pid)
    for process in root.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            gateway = "gateway" in process.cmdline()
            used["gateway" if gateway else "triton"] += times.user + times.system
    return used["gateway"], used["triton"]


def compare(
    rounds: int, seconds: float, rate: float, say: Callable[[str], None]
) -> dict[tuple[int, str], list[Round]]:
    """Measure every way with every fleet, in turns. Raises LoadError."""
    found: dict[tuple[int, str], list[Round]] = {case: [] for case in product(FLEETS, WAYS)}
    with processes.gateway() as (url, pid):
        for turn in range(rounds):
            cases = list(found)
            for vehicles, way in cases[turn % 3 :] + cases[: turn % 3]:  # none is always first
                one = measure(url, pid, way, vehicles, rate, seconds)
                found[vehicles, way].append(one)
                say(f"round {turn + 1}: {vehicles} vehicles, {way}: p50 {one.p50:.2f} ms")
    return found


def table(found: dict[tuple[int, str], list[Round]]) -> list[str]:
    """Write a Markdown table: medians of the rounds, and their ranges."""
    lines = [
        "| vehicles | way | p50 ms | p99 ms | CPU of the gateway, s/s | of Triton "
        "| of the load generator | skipped |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (vehicles, way), rounds in found.items():
        figures = [
            _spread([getattr(one, name) for one in rounds], digits)
            for name, digits in (
                ("p50", 2), ("p99", 2), ("gateway", 3), ("triton", 3), ("generator", 3)
            )
        ]  # fmt: skip
        skipped = sum(one.skipped for one in rounds)
        lines.append(f"| {vehicles} | `{way}` | {' | '.join(figures)} | {skipped:,} |")
    return lines


def _spread(values: list[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=10.0, show_default=True, type=click.FloatRange(1))
@click.option("--rate", default=20.0, show_default=True, help="Steps of one vehicle a second.")
@click.option("--output", type=click.Path(path_type=Path), help="Markdown, else standard output.")
def main(rounds: int, seconds: float, rate: float, output: Path | None) -> None:
    """Measure, and write the table."""
    try:
        found = compare(rounds, seconds, rate, lambda line: click.echo(line, err=True))
    except LoadError as error:
        raise click.ClickException(str(error)) from None
    lines = [
        f"Command: `python -m perf.stream --rounds {rounds} --seconds {seconds:g} "
        f"--rate {rate:g}`. Medians of the rounds, ranges in brackets. {machine.facts()}; "
        "the load generator ran on the same cores.",
        "",
        *table(found),
    ]
    text = "\n".join(lines) + "\n"
    if output is None:
        click.echo(text)
    else:
        output.write_text(text)
    sys.stderr.flush()


if __name__ == "__main__":
    main()
