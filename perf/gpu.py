"""Each format on the CPU and on the GPU of this machine: `python -m perf.gpu`.

One stack for each runs throughout, and they are measured in turn. The ensemble is called by
Triton's HTTP protocol from four processes, JSON goes through the gateway by `wrk`: closed loops.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
import uvloop
from numpy.typing import NDArray

from carlarl.serving import gpu
from converters.repository import placement
from gateway.policy import Observation
from gateway.rows import Rows
from gateway.triton import Triton
from perf import closed_loop, layers, machine, processes
from perf.fast_path import spread
from perf.target import Target
from triton_backend import runtimes
from triton_backend.preprocessing import FILE_NAME, Preprocessing

VERSION, NUMBER = layers.VERSION, "2000"
REPOSITORY = processes.ROOT / "model_repository"
FILES = {"onnx": "model.onnx", "torchscript": "model.pt"}
CLIENTS = 4
BATCHES = (1, 32, 256)

RUNTIMES: dict[str, Callable[[Path, bool], runtimes.Runtime]] = {
    "onnx": runtimes.onnx,
    "torchscript": runtimes.torchscript,
}


@dataclass
class Setup:
    """One format on one device, and what each round measured of it."""

    form: str
    device: placement.Device
    ports: list[int] = field(default_factory=list)
    measured: dict[str, list[float]] = field(default_factory=dict)
    difference: float = 0.0

    @property
    def name(self) -> str:
        """Name it in a table."""
        return f"{self.form} | {self.device}"

    def note(self, what: str, value: float) -> None:
        """Keep one round's figure."""
        self.measured.setdefault(what, []).append(value)


def setups(devices: list[placement.Device]) -> list[Setup]:
    """Give what can run here."""
    return [
        Setup(form, device)
        for form in FILES
        for device in devices
        if device == "CPU" or gpu.runs(form)
    ]


@contextmanager
def running(all_setups: list[Setup]) -> Iterator[None]:
    """Serve each of them, until the block ends."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for setup in all_setups:
            target = folder / f"{setup.form}-{setup.device}"
            placement.place(REPOSITORY, target, setup.form, setup.device)
            variables = {"MODEL_REPOSITORY": str(target), "USE_GPU": "0"}
            setup.ports = stack.enter_context(processes.stack(**variables))
            url = f"http://127.0.0.1:{setup.ports[0]}/metadata"
            told = httpx.get(url, trust_env=False).json()["device"]
            if told != {"CPU": "cpu", "GPU": "cuda"}[setup.device]:
                raise RuntimeError(f"{setup.name} is served on {told}")
        yield


def measure(setup: Setup, seconds: float, calls: int, pool: ProcessPoolExecutor) -> None:
    """Add one round."""
    gateway, http = setup.ports[:2]
    setup.note("ensemble p50", uvloop.run(_lone(http, calls)))
    each = [pool.submit(_rate, http, 32 // CLIENTS, seconds) for _ in range(CLIENTS)]
    setup.note("ensemble rate", sum(one.result() for one in each))
    target = Target(f"http://127.0.0.1:{gateway}")
    setup.note("json p50", closed_loop.run(target, 1, seconds).latency_ms.p50)
    setup.note("json rate", closed_loop.run(target, 32, seconds).requests_per_s)
    setup.note("json rows", closed_loop.run(target, 8, seconds, 32).observations_per_s)


async def _lone(http: int, calls: int) -> float:
    triton = Triton(f"http://127.0.0.1:{http}")
    taken = await layers.median_ms(lambda: triton.infer(layers.ENSEMBLE, layers.ROWS, 5), calls)
    await triton.close()
    return taken


def _rate(http: int, callers: int, seconds: float) -> float:
    async def run() -> float:
        triton = Triton(f"http://127.0.0.1:{http}")
        rate = await layers.calls_per_s(
            lambda: triton.infer(layers.ENSEMBLE, layers.ROWS, 5), callers, seconds
        )
        await triton.close()
        return rate

    return uvloop.run(run())


def actions(setup: Setup) -> NDArray[Any]:
    """Give the ensemble's and the fused model's actions for recorded observations, with noise."""
    observations = np.load(processes.ROOT / "artifacts" / VERSION / "observations.npy")
    seen = [Observation(row[0], row[1], tuple(row[2:])) for row in observations[:1000].tolist()]

    async def run() -> bytes:
        triton = Triton(f"http://127.0.0.1:{setup.ports[1]}")
        answer = b""
        for model in (layers.ENSEMBLE, layers.FUSED):
            for size in (256, 100, 1):  # whole, padded, alone
                part = Rows.of(seen[: 3 * size], 7).split(size)
                answer += b"".join([await triton.infer(model, rows, 5) for rows in part])
        await triton.close()
        return answer

    return np.frombuffer(uvloop.run(run()), np.float32)


def in_process(setup: Setup, calls: int) -> dict[int, float]:
    """Give the median milliseconds of preprocessing and policy alone, by rows in a batch."""
    folder = REPOSITORY / f"policy_{setup.form}" / NUMBER
    infer = RUNTIMES[setup.form](folder / FILES[setup.form], setup.device == "GPU")
    preprocessing = Preprocessing.load(REPOSITORY / "preprocess" / NUMBER / FILE_NAME)
    found = {}
    for rows in BATCHES:
        observation = np.random.default_rng(rows).uniform(-1, 1, (rows, 7)).astype(np.float32)
        noise = np.zeros((rows, preprocessing.noise), np.float32)
        taken = []
        for index in range(calls + 50):
            began = time.perf_counter()
            infer(preprocessing.features(observation), noise)
            if index >= 50:
                taken.append(time.perf_counter() - began)
        found[rows] = statistics.median(taken) * 1e3
    return found


def tables(all_setups: list[Setup], calls: int) -> list[str]:
    """Give lines of Markdown."""
    lines = [
        "| format | device | ensemble p50 ms, 1 caller | ensemble calls/s, 32 callers "
        "| JSON p50 ms, 1 connection | JSON requests/s, 32 connections "
        "| JSON observations/s, 8 connections, 32 a request | largest difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for setup in all_setups:
        figures = " | ".join(spread(values) for values in setup.measured.values())
        lines.append(f"| {setup.name} | {figures} | {setup.difference:.1e} |")
    lines += [
        "",
        "The same without Triton, preprocessing and policy in one process, median ms of a call:",
        "",
        f"| format | device | {' | '.join(f'{rows} rows' for rows in BATCHES)} |",
        f"|---|---|{'---|' * len(BATCHES)}",
    ]
    for setup in all_setups:
        found = in_process(setup, calls)
        lines.append(f"| {setup.name} | {' | '.join(f'{ms:.3f}' for ms in found.values())} |")
    return lines


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(1))
@click.option("--calls", default=2000, show_default=True, type=click.IntRange(100))
@click.option(
    "--device",
    "devices",
    type=click.Choice(["CPU", "GPU"]),
    multiple=True,
    default=["CPU", "GPU"],
    show_default=True,
)
@click.option("--output", type=click.Path(path_type=Path), help="Markdown, else standard output.")
def main(
    rounds: int, seconds: float, calls: int, devices: list[placement.Device], output: Path | None
) -> None:
    """Measure, compare the answers, and write the tables."""
    if "GPU" in devices and not any(gpu.runs(form) for form in FILES):
        raise click.ClickException("nothing can run on a GPU here; see `USE_GPU=1 carlarl serve`")
    all_setups = setups(devices)
    left_out = [form for form in FILES if "GPU" in devices and not gpu.runs(form)]
    with running(all_setups), ProcessPoolExecutor(CLIENTS) as pool:
        answers = [actions(setup) for setup in all_setups]
        for setup, answer in zip(all_setups, answers, strict=True):
            setup.difference = float(np.abs(answer - answers[0]).max())
        for turn in range(rounds):
            for setup in all_setups:
                measure(setup, seconds, calls, pool)
                told = ", ".join(f"{what} {v[-1]:.4g}" for what, v in setup.measured.items())
                click.echo(f"round {turn + 1}: {setup.form} {setup.device}: {told}", err=True)
    text = "\n".join(
        [
            f"Command: `python -m perf.gpu --rounds {rounds} --seconds {seconds:g} "
            f"--calls {calls}`. Medians, ranges in brackets; differences from {all_setups[0].form} "
            f"on the {all_setups[0].device}. {machine.facts()}.",
            *(f"Not run: {form} on the GPU, whose runtime is not here." for form in left_out),
            "",
            *tables(all_setups, calls),
            "",
        ]
    )
    if output is None:
        click.echo(text)
    else:
        output.write_text(text)


if __name__ == "__main__":
    main()
