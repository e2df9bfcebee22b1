"""`/stream` against `/predict`, as a fleet drives: `python -m perf.studies.stream`.

Each vehicle has one connection, and its steps are due at a fixed rate; the vehicles are spread
evenly over the time between two steps. The loop is open: a latency counts from when its step was
due. A step may be due before the answer to the last one has come. Over `/predict` it is sent after
that answer, and its wait counts; over `/stream` it is sent at once, and the gateway may answer
`skipped`, which is counted and has no latency. The ways are measured in turns.

The load generator is one process, and its requests are made beforehand; the table has its own CPU
time.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from itertools import product
from urllib.parse import urlsplit

import click
import numpy as np
import uvloop

from perf.bench.command import Say, heading, say, study
from perf.bench.tables import Table, spread
from perf.load import processes
from perf.load.generator import LoadError
from perf.load.vehicles import Saw, StreamVehicle, Vehicle
from perf.studies.usage import cpu_s

FLEETS = (1, 100)
WAYS = ("/predict", "/stream, JSON", "/stream, msgpack")
WARM_S = 1.0
LAST_ANSWERS_S = 5.0


@dataclass(frozen=True)
class Round:
    """Milliseconds, CPU seconds in a second, and skipped steps of one way."""

    p50: float
    p99: float
    gateway: float
    triton: float
    generator: float
    skipped: int


async def drive(url: str, way: str, vehicles: int, rate: float, seconds: float, saw: Saw) -> None:
    """Drive for `seconds`. Raises LoadError where a step fails or gets no answer."""
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


def compare(
    rounds: int, seconds: float, rate: float, say: Say
) -> dict[tuple[int, str], list[Round]]:
    """Measure every way with every fleet, in turns. Raises LoadError."""
    cases = list(product(FLEETS, WAYS))
    found: dict[tuple[int, str], list[Round]] = {case: [] for case in cases}
    with processes.gateway() as served:
        for turn in range(rounds):
            for vehicles, way in cases[turn % 3 :] + cases[: turn % 3]:  # none is always first
                one = measure(served.url, served.pid, way, vehicles, rate, seconds)
                found[vehicles, way].append(one)
                say(f"round {turn + 1}: {vehicles} vehicles, {way}: p50 {one.p50:.2f} ms")
    return found


def table(found: dict[tuple[int, str], list[Round]]) -> Table:
    """Show medians of the rounds, and their ranges."""
    head = ["vehicles", "way", "p50 ms", "p99 ms", "CPU of the gateway, s/s", "of Triton"]
    shown = Table([*head, "of the load generator", "skipped"])
    digits = {"p50": 2, "p99": 2, "gateway": 3, "triton": 3, "generator": 3}
    for (vehicles, way), rounds in found.items():
        cells = [spread([getattr(one, name) for one in rounds], n) for name, n in digits.items()]
        skipped = sum(one.skipped for one in rounds)
        shown.rows.append([str(vehicles), f"`{way}`", *cells, f"{skipped:,}"])
    return shown


@study(rounds=5, seconds=10.0)
@click.option("--rate", default=20.0, show_default=True, help="Steps of one vehicle a second.")
def main(rounds: int, seconds: float, rate: float) -> None:
    """Measure, and write the table."""
    found = compare(rounds, seconds, rate, say)
    note = "the load generator ran on the same cores"
    click.echo(heading("perf.studies.stream", note, rounds=rounds, seconds=seconds, rate=rate))
    click.echo(table(found).markdown())


if __name__ == "__main__":
    main()
