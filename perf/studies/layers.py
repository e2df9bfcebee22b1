"""Where the time of a lone request goes, and ways to call Triton: `python -m perf.studies.layers`.

Every figure is the median of calls made one after another, over the network, against the running
stack; what a part takes is the difference between calls with and without it.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import uvloop

from gateway.http1 import Pool
from gateway.rows import Rows
from gateway.triton import Triton
from perf.bench import charts, drawing
from perf.bench.command import Command
from perf.bench.tables import Table
from perf.load import closed_loop, in_process, processes
from perf.load.processes import Served
from perf.load.target import Target, ensemble, fused
from perf.load.triton_clients import GrpcClient, HttpClient, SharedMemoryClient, tensors

VERSION = "v0.2.0"
ENSEMBLE, FUSED = ensemble(VERSION), fused(VERSION)
SEEN = (25.5, 0.1, 0.8, 0.2, 0.5, 0.9, 0.1)

Call = Callable[[str], Awaitable[Any]]
"""Takes a model's name and calls it with one observation."""


async def median_ms(call: Callable[[], Awaitable[Any]], calls: int) -> float:
    """Give the median milliseconds of `call`, made one after another."""
    taken = []
    for index in range(calls + 50):
        began = time.perf_counter()
        await call()
        if index >= 50:
            taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1e3


async def calls_per_s(call: Callable[[], Awaitable[Any]], callers: int, seconds: float) -> float:
    """Give the calls a second that so many callers get answered."""
    count, end = 0, time.perf_counter() + seconds

    async def caller() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await call()
            count += 1

    await asyncio.gather(*(caller() for _ in range(callers)))
    return count / seconds


async def measure(
    served: Served, secret: str, calls: int, seconds: float
) -> tuple[list[float], Table]:
    """Give the milliseconds of Triton's front alone, of the fused model and of the ensemble.

    And a table of the clients that can call Triton.
    """
    host, port = served.http.split(":")
    inputs = {name: tensors(name, np.array([SEEN])) for name in (ENSEMBLE, FUSED)}
    rows = Rows(1, np.array(SEEN, np.float32).tobytes())
    own, pool = Triton(f"http://{served.http}", secret=secret), Pool(host, int(port))
    live = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    parts = [await median_ms(lambda: pool.request(live), calls)]
    pool.close()
    head = ["client", "ensemble, p50 ms", "fused, p50 ms", "fused, 8 callers, calls/s"]
    table = Table(head)

    async def client(name: str, call: Call, at_once: bool = True) -> None:
        each = [await median_ms(lambda model=m: call(model), calls) for m in (FUSED, ENSEMBLE)]  # type: ignore[misc]
        rate = await calls_per_s(lambda: call(FUSED), 8, seconds) if at_once else 0
        shown = f"{rate:,.0f}" if at_once else "–"  # the shared segments are those of one call
        table.rows.append([name, f"{each[1]:.3f}", f"{each[0]:.3f}", shown])
        if len(parts) == 1:
            parts.extend(each)

    await client("the gateway's own, HTTP/1.1", lambda model: own.infer(model, rows, 5))
    await own.close()
    for name, other in (
        ("`tritonclient.http.aio`", HttpClient(served.http)),
        ("the same, tensors in shared memory", SharedMemoryClient(served.http, secret)),
        ("`tritonclient.grpc.aio`", GrpcClient(served.grpc)),
    ):
        await client(
            name,
            lambda model, c=other: c.infer(model, inputs[model], 1),  # type: ignore[misc]
            at_once=not isinstance(other, SharedMemoryClient),
        )
        await other.close()
    return parts, table


@click.command(cls=Command)
@click.option("--calls", default=3000, show_default=True, type=click.IntRange(100))
@click.option("--picture", type=click.Path(path_type=Path), default=Path("perf/layers.png"))
def main(calls: int, picture: Path) -> None:
    """Measure, draw and write the tables."""
    floor = in_process.run(processes.ROOT / "model_repository", VERSION, "onnx", 1).latency_ms.p50
    secret = secrets.token_hex(32)
    with processes.gateway(TRITON_SECRET=secret) as served:
        (front, lone, both), clients = uvloop.run(measure(served, secret, calls, 3.0))
        whole = closed_loop.run(Target(served.url), 1, 5).latency_ms.p50
    own = [
        ("arithmetic", floor),
        ("Triton's HTTP front", front),
        ("hand-over to Python", lone - front - floor),
    ]
    bars = {
        "ensemble, direct": [*own, ("second hand-over", both - lone)],
        "fused model, direct": own,
        "JSON, by the gateway": [*own, ("gateway", whole - lone)],
    }
    note = f"Closed loop, {calls} calls one at a time; gateway: wrk"
    drawing.save(charts.stacked(bars, note), picture)
    rows = [
        ["the arithmetic: preprocessing and ONNX Runtime, in process", f"{floor:.3f}"],
        ["a round trip to Triton's HTTP front (`/v2/health/live`)", f"{front:.3f}"],
        ["the fused model", f"{lone:.3f}"],
        ["the ensemble", f"{both:.3f}"],
        ["`POST /predict` by the gateway (`wrk`, 1 connection)", f"{whole:.3f}"],
        ["share of `/predict` that is Triton's own", f"{lone / whole:.0%}"],
    ]
    command = f"python -m perf.studies.layers --calls {calls}"
    click.echo(f"Command: `{command}`; medians of calls one at a time.\n")
    click.echo(Table(["part of a lone request", "ms"], rows).markdown())
    click.echo(clients.markdown())


if __name__ == "__main__":
    main()
