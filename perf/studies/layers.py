"""Where the time of a lone request goes, and ways to call Triton: `python -m perf.studies.layers`.

Every figure is the median of calls made one after another, over the network, against the running
stack; the owner of each part is found by taking parts away.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click
import uvloop

from gateway.http1 import Pool
from gateway.policy import Observation
from gateway.rows import Rows
from gateway.triton import Triton
from perf.load import closed_loop, in_process, processes
from perf.load.target import Target
from perf.load.triton_clients import GrpcClient, HttpClient, SharedMemoryClient

VERSION = "v0.2.0"
ENSEMBLE, FUSED = f"carla_policy-{VERSION}", f"carla_policy_fused-{VERSION}"
ROWS = Rows.of([Observation(25.5, 0.1, (0.8, 0.2, 0.5, 0.9, 0.1))], None)


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


async def clients(http: int, grpc: int, calls: int, seconds: float) -> list[str]:
    """Compare the ways to call Triton; gives lines of a Markdown table."""
    lines = [
        "| client | ensemble, p50 ms | fused, p50 ms | fused, 8 callers, calls/s |",
        "|---|---|---|---|",
    ]
    for name, client in (
        ("the gateway's own, HTTP/1.1", Triton(f"http://127.0.0.1:{http}")),
        ("`tritonclient.http.aio`", HttpClient(f"127.0.0.1:{http}")),
        ("the same, tensors in shared memory", SharedMemoryClient(f"127.0.0.1:{http}")),
        ("`tritonclient.grpc.aio`", GrpcClient(f"127.0.0.1:{grpc}")),
    ):
        ensemble = await median_ms(lambda c=client: c.infer(ENSEMBLE, ROWS, 5), calls)  # type: ignore[misc]
        fused = await median_ms(lambda c=client: c.infer(FUSED, ROWS, 5), calls)  # type: ignore[misc]
        at_once = "–"  # the shared segments are those of one call
        if not isinstance(client, SharedMemoryClient):
            rate = await calls_per_s(lambda c=client: c.infer(FUSED, ROWS, 5), 8, seconds)  # type: ignore[misc]
            at_once = f"{rate:,.0f}"
        lines.append(f"| {name} | {ensemble:.3f} | {fused:.3f} | {at_once} |")
        await client.close()
    return lines


async def layers(http: int, calls: int) -> dict[str, float]:
    """Give the milliseconds of: Triton's front alone, the fused model, the ensemble."""
    pool, triton = Pool("127.0.0.1", http), Triton(f"http://127.0.0.1:{http}")
    live = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    measured = {
        "front": await median_ms(lambda: pool.request(live), calls),
        "fused": await median_ms(lambda: triton.infer(FUSED, ROWS, 5), calls),
        "ensemble": await median_ms(lambda: triton.infer(ENSEMBLE, ROWS, 5), calls),
    }
    pool.close()
    await triton.close()
    return measured


def draw(parts: dict[str, list[tuple[str, float]]], path: Path) -> None:
    """Write a PNG with a bar for each way, made of its owners' parts in milliseconds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    owners = list(dict.fromkeys(owner for bar in parts.values() for owner, _ in bar))
    colours = dict(
        zip(owners, ("#2a6f97", "#61a5c2", "#f4a259", "#bc4b51", "#5b8e7d"), strict=False)
    )
    for place, bar in enumerate(parts.values()):
        left = 0.0
        for owner, width in bar:
            axes.barh(place, width, left=left, color=colours[owner], label=owner)
            if width > 0.03:  # else there is no room in the bar; the table has it
                label = f"{width:.2f}"
                axes.text(left + width / 2, place, label, ha="center", va="center", fontsize=9)
            left += width
        axes.text(left + 0.005, place, f"{left:.2f} ms", va="center", fontsize=10, weight="bold")
    axes.set_yticks(range(len(parts)), list(parts))
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds, median, one request at a time")
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(unique.values(), unique, frameon=False, fontsize=9, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.15)
    figure.savefig(path)


@click.command()
@click.option("--calls", default=3000, show_default=True, type=click.IntRange(100))
@click.option("--picture", type=click.Path(path_type=Path), default=Path("perf/layers.png"))
@click.option("--output", type=click.Path(path_type=Path), help="Markdown, else standard output.")
def main(calls: int, picture: Path, output: Path | None) -> None:
    """Measure, draw and write the table."""
    floor = in_process.run(processes.ROOT / "model_repository", VERSION, "onnx", 1).latency_ms.p50
    with processes.stack() as ports:
        measured = uvloop.run(layers(ports[1], calls))
        table = uvloop.run(clients(ports[1], ports[2], calls, 3.0))
        gateway = Target(f"http://127.0.0.1:{ports[0]}")
        whole = closed_loop.run(gateway, 1, 5).latency_ms.p50
    front, fused, ensemble = measured["front"], measured["fused"], measured["ensemble"]
    own = [
        ("arithmetic", floor),
        ("Triton's HTTP front", front),
        ("hand-over to a Python process", fused - front - floor),
    ]
    draw(
        {
            "ensemble, direct": [*own, ("second hand-over", ensemble - fused)],
            "fused model, direct": own,
            "JSON, by the gateway": [*own, ("gateway and its client", whole - fused)],
        },
        picture,
    )
    text = "\n".join(
        [
            f"Command: `python -m perf.studies.layers --calls {calls}`; "
            "medians of calls one at a time.",
            "",
            "| part of a lone request | ms |",
            "|---|---|",
            f"| the arithmetic: preprocessing and ONNX Runtime, in process | {floor:.3f} |",
            f"| a round trip to Triton's HTTP front (`/v2/health/live`) | {front:.3f} |",
            f"| the fused model | {fused:.3f} |",
            f"| the ensemble | {ensemble:.3f} |",
            f"| `POST /predict` by the gateway (`wrk`, 1 connection) | {whole:.3f} |",
            f"| share of `/predict` that is Triton's own | {fused / whole:.0%} |",
            "",
            *table,
        ]
    )
    if output is None:
        click.echo(text)
    else:
        output.write_text(text + "\n")


if __name__ == "__main__":
    main()
