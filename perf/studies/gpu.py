"""Each format on the CPU and on the GPU of this machine: `python -m perf.studies.gpu`.

One stack for each runs throughout, and they are measured in turn, in closed loops: the ensemble by
`perf_analyzer` over Triton's HTTP, JSON through the gateway by `wrk`.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
from numpy.typing import NDArray

from converters.repository import placement
from gateway.api.actions import Output
from gateway.triton.batch import Rows
from gateway.triton.client import tensors_of
from gateway.triton.tensors import Tensors
from perf.bench.command import heading, say, study
from perf.bench.tables import Table, spread
from perf.load import closed_loop, in_process, perf_analyzer, processes
from perf.load.processes import Served
from perf.load.target import Target, ensemble, fused
from perf.studies.triton_clients import HttpClient
from policy_spec.leaves import Layout
from policy_spec.signature import driving_space

VERSION = "v0.2.0"
REPOSITORY = processes.ROOT / "model_repository"
FORMATS, DEVICES = ("onnx", "torchscript"), ("CPU", "GPU")
BATCHES = (1, 32, 256)
FIGURES = (
    "ensemble p50 ms, 1 caller",
    "ensemble calls/s, 32 callers",
    "JSON p50 ms, 1 connection",
    "JSON requests/s, 32 connections",
    "JSON observations/s, 8 connections, 32 a request",
)


@dataclass
class Setup:
    """One format on one device, and what each round measured of it."""

    form: str
    device: placement.Device
    served: Served
    rounds: list[list[float]] = field(default_factory=list)
    """A list as long as FIGURES for each round."""
    difference: float = 0.0


@contextmanager
def running(devices: list[placement.Device], left_out: list[str]) -> Iterator[list[Setup]]:
    """Serve each format on each device until the block ends; what can't be is left out."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        setups = []
        for form, device in ((form, device) for form in FORMATS for device in devices):
            target = folder / f"{form}-{device}"
            placement.place(REPOSITORY, target, form, device)
            variables = {"MODEL_REPOSITORY": str(target), "USE_GPU": "0"}
            try:
                served = stack.enter_context(processes.gateway(**variables))
            except processes.StartError as error:
                left_out.append(f"{form} on the {device}: {str(error).splitlines()[-1]}")
                continue
            told = httpx.get(f"{served.url}/metadata", trust_env=False).json()["device"]
            if told != {"CPU": "cpu", "GPU": "cuda"}[device]:
                raise RuntimeError(f"{form} for the {device} is served on {told}")
            setups.append(Setup(form, device, served))
        yield setups


def measure(served: Served, seconds: float) -> list[float]:
    """Measure one round: the values of FIGURES."""
    target = Target(served.url)
    direct = [
        perf_analyzer.run(ensemble(VERSION), "http", served.http, callers, seconds)
        for callers in (1, 32)
    ]
    return [
        direct[0].latency_ms.p50,
        direct[1].requests_per_s,
        closed_loop.run(target, 1, seconds).latency_ms.p50,
        closed_loop.run(target, 32, seconds).requests_per_s,
        closed_loop.run(target, 8, seconds, 32).observations_per_s,
    ]


def actions(served: Served) -> NDArray[Any]:
    """Give the ensemble's and the fused model's actions for recorded observations, with noise."""
    observations = np.load(processes.ROOT / "artifacts" / VERSION / "observations.npy")

    async def run() -> bytes:
        client = HttpClient(served.http)
        space = driving_space(observations.shape[1] - 2)
        tensors = Tensors(Layout.of(space), [Output("action", "float32", 3)])
        answer = b""
        for model in (ensemble(VERSION), fused(VERSION)):
            for size in (256, 100, 1):  # whole, padded, alone
                for start in range(0, min(3 * size, len(observations)), size):
                    some = observations[start : start + size].astype(np.float32)
                    keys = np.array([(7, row) for row in range(len(some))], np.int64)
                    rows = Rows(tensors, len(some), some.tobytes(), keys=keys.tobytes())
                    answer += await client.infer(model, tensors_of(model, rows), rows.count)
        await client.close()
        return answer

    return np.frombuffer(asyncio.run(run()), np.float32)


def tables(setups: list[Setup]) -> list[Table]:
    """Show the rounds, and preprocessing and policy in one process."""
    stacks = Table(["format", "device", *FIGURES, "largest difference"])
    title = "The same without Triton, preprocessing and policy in one process, median ms of a call:"
    alone = Table(["format", "device", *(f"batch of {rows}" for rows in BATCHES)], title=title)
    for one in setups:
        figures = [spread(values) for values in zip(*one.rounds, strict=True)]
        stacks.rows.append([one.form, one.device, *figures, f"{one.difference:.1e}"])
        policy = partial(in_process.run, REPOSITORY, 1, version=VERSION, form=one.form)
        each = [policy(batch, gpu=one.device == "GPU").latency_ms.p50 for batch in BATCHES]
        alone.rows.append([one.form, one.device, *(f"{p50:.3f}" for p50 in each)])
    return [stacks, alone]


@study(rounds=5, seconds=3.0)
@click.option("--device", "devices", type=click.Choice(DEVICES), multiple=True, default=DEVICES)
def main(rounds: int, seconds: float, devices: list[placement.Device]) -> None:
    """Measure, compare the answers, and write the tables."""
    left_out: list[str] = []
    with running(devices, left_out) as setups:
        if not any(setup.device in devices[-1:] for setup in setups):
            raise click.ClickException("nothing could be served:\n" + "\n".join(left_out))
        answers = [actions(setup.served) for setup in setups]
        for setup, answer in zip(setups, answers, strict=True):
            setup.difference = float(np.abs(answer - answers[0]).max())
        for turn in range(rounds):
            for setup in setups:
                setup.rounds.append(measure(setup.served, seconds))
                told = ", ".join(f"{value:.4g}" for value in setup.rounds[-1])
                say(f"round {turn + 1}: {setup.form} {setup.device}: {told}")
    note = f"differences from {setups[0].form} on the {setups[0].device}"
    click.echo(heading("perf.studies.gpu", note, rounds=rounds, seconds=seconds))
    for reason in left_out:
        click.echo(f"Not run: {reason}\n")
    for table in tables(setups):
        click.echo(table.markdown())


if __name__ == "__main__":
    main()
