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

from gateway.api.actions import Output
from gateway.triton.batch import Rows
from gateway.triton.client import Triton, tensors_of
from gateway.triton.connection_pool import Pool
from gateway.triton.tensors import Tensors
from perf.bench import charts, drawing
from perf.bench.command import Command
from perf.bench.tables import Table
from perf.load import closed_loop, in_process, processes
from perf.load.processes import Served
from perf.load.target import Target, ensemble, fused
from perf.studies.triton_clients import GrpcClient, HttpClient, SharedMemoryClient
from policy_spec.leaves import Layout
from policy_spec.signature import driving_space

VERSION = "v0.2.0"
REPOSITORY = processes.ROOT / "model_repository"
ENSEMBLE, FUSED = ensemble(VERSION), fused(VERSION)
SEEN = (25.5, 0.1, 0.8, 0.2, 0.5, 0.9, 0.1)

Call = Callable[[str], Awaitable[Any]]
"""Takes a model's name and calls it with one observation."""


async def calls_ms(call: Call, model: str, calls: int) -> float:
    """Give the median milliseconds of `call`, made one after another."""
    taken = []
    for _ in range(calls + 50):
        began = time.perf_counter()
        await call(model)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[50:]) * 1e3


async def calls_per_s(call: Call, model: str, callers: int, seconds: float) -> float:
    """Give the calls a second that so many callers get answered."""
    count, end = 0, time.perf_counter() + seconds

    async def caller() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await call(model)
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
    tensors = Tensors(Layout.of(driving_space(5)), [Output("action", "float32", 3)])
    rows = Rows(tensors, 1, np.array(SEEN, np.float32).tobytes())
    own, pool = Triton(f"http://{served.http}", secret=secret), Pool(host, int(port))
    live = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    parts = [await calls_ms(lambda _: pool.request(live, 5.0), "", calls)]
    pool.close()
    others = {
        "`tritonclient.http.aio`": HttpClient(served.http),
        "the same, tensors in shared memory": SharedMemoryClient(served.http, secret),
        "`tritonclient.grpc.aio`": GrpcClient(served.grpc),
    }
    for model in (FUSED, ENSEMBLE):
        await own.config(model, 5)  # from which it knows whether to send a nonce
    ways: dict[str, Call] = {"the gateway's own, HTTP/1.1": lambda name: own.infer(name, rows, 5)}
    for name, client in others.items():
        ways[name] = lambda name, c=client: c.infer(name, tensors_of(name, rows), 1)  # type: ignore[misc]
    table = Table(["client", "ensemble, p50 ms", "fused, p50 ms", "fused, 8 callers, calls/s"])
    for name, call in ways.items():
        lone, both = [await calls_ms(call, model, calls) for model in (FUSED, ENSEMBLE)]
        parts += [lone, both]
        # The shared segments are those of one call.
        at_once = "–" if "shared" in name else f"{await calls_per_s(call, FUSED, 8, seconds):,.0f}"
        table.rows.append([name, f"{both:.3f}", f"{lone:.3f}", at_once])
    await asyncio.gather(own.close(), *(client.close() for client in others.values()))
    return parts[:3], table


@click.command(cls=Command)
@click.option("--calls", default=3000, show_default=True, type=click.IntRange(100))
@click.option("--picture", type=click.Path(path_type=Path), default=Path("perf/layers.png"))
def main(calls: int, picture: Path) -> None:
    """Measure, draw and write the tables."""
    floor = in_process.run(REPOSITORY, 1, version=VERSION, form="onnx").latency_ms.p50
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
    drawn = charts.stacked(bars)
    drawing.note(drawn, f"Closed loop, {calls} calls one at a time; gateway: wrk")
    drawing.save(drawn, picture)
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
