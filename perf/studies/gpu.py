"""Each format on the CPU and on the GPU of this machine: `python -m perf.studies.gpu`.

One stack runs at a time, in turns; the load is a closed loop: of the ensemble by `perf_analyzer`
over Triton's HTTP, of JSON through the gateway by `wrk`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import click
import httpx
import numpy as np

from converters.repository import placement
from perf.bench.command import heading, say, study
from perf.bench.request_forms import in_turns
from perf.bench.tables import Table, spread
from perf.load import closed_loop, in_process, perf_analyzer, processes
from perf.load.observations import body
from perf.load.processes import Served
from perf.load.target import Target, ensemble

VERSION = "v0.2.0"
REPOSITORY = processes.ROOT / "model_repository"
FORMATS, DEVICES = ("onnx", "torchscript"), ("CPU", "GPU")
BATCHES = (1, 32, 256)
HEAD = (
    "format",
    "device",
    "ensemble p50 ms, 1 caller",
    "ensemble calls/s, 32 callers",
    "JSON p50 ms, 1 connection",
    "JSON requests/s, 32 connections",
    "JSON observations/s, 8 connections, 32 a request",
    "largest difference",
)

Case = tuple[str, placement.Device]


@contextmanager
def serving(form: str, device: placement.Device) -> Iterator[Served]:
    """Serve a format on a device until the block ends. Raises StartError."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model_repository"
        placement.place(REPOSITORY, target, form, device)
        variables = {"MODEL_REPOSITORY": str(target), "USE_GPU": "0"}
        with processes.gateway(**variables) as served:
            told = httpx.get(f"{served.url}/metadata", trust_env=False).json()["device"]
            if told != {"CPU": "cpu", "GPU": "cuda"}[device]:
                raise processes.StartError(f"{form} for the {device} is served on {told}")
            yield served


def actions(served: Served) -> list[float]:
    """Return the actions for requests of several sizes, sampled with the same seed."""
    found: list[float] = []
    for rows in BATCHES:
        asked = body(rows) | {"deterministic": False, "seed": 7}
        answer = httpx.post(f"{served.url}/predict", json=asked, trust_env=False)
        for action in answer.raise_for_status().json()["actions"]:
            found += action.values()
    return found


def measure(served: Served, seconds: float) -> list[float]:
    """Measure the figures of HEAD, in its order."""
    target, model = Target(served.url), ensemble(VERSION)
    one, many = (perf_analyzer.run(model, "http", served.http, n, seconds) for n in (1, 32))
    lone, busy = (closed_loop.run(target, n, seconds) for n in (1, 32))
    large = closed_loop.run(target, 8, seconds, 32).observations_per_s
    latencies = one.latency_ms.p50, lone.latency_ms.p50
    return [latencies[0], many.requests_per_s, latencies[1], busy.requests_per_s, large]


@study(rounds=5, seconds=3.0)
@click.option("--device", "devices", type=click.Choice(DEVICES), multiple=True, default=DEVICES)
def main(rounds: int, seconds: float, devices: list[placement.Device]) -> None:
    """Measure, compare the answers, and write the tables."""
    cases = list(product(FORMATS, devices))
    figures: dict[Case, list[list[float]]] = {}
    answers: dict[Case, list[float]] = {}
    left_out: dict[Case, str] = {}
    for turn, case in in_turns(cases, rounds):
        if case in left_out:
            continue
        try:
            with serving(*case) as served:
                answers[case] = actions(served)
                figures.setdefault(case, []).append(measure(served, seconds))
        except processes.StartError as error:
            left_out[case] = str(error).splitlines()[-1]
            continue
        told = ", ".join(f"{value:.4g}" for value in figures[case][-1])
        say(f"round {turn}: {' '.join(case)}: {told}")
    if not any(device == devices[-1] for _, device in figures):
        raise click.ClickException(f"nothing could be served: {left_out}")
    title = "The same without Triton, preprocessing and policy in one process, median ms of a call:"
    stacks = Table(HEAD)
    alone = Table(["format", "device", "1 row", "32 rows", "256 rows"], title=title)
    first, *_ = figures
    for case in figures:
        form, device = case
        difference = np.abs(np.subtract(answers[case], answers[first])).max()
        cells = [spread(values) for values in zip(*figures[case], strict=True)]
        stacks.rows.append([*case, *cells, f"{difference:.1e}"])
        floors = [
            in_process.run(REPOSITORY, 1, n, version=VERSION, form=form, gpu=device == "GPU")
            for n in BATCHES
        ]
        alone.rows.append([*case, *(f"{floor.latency_ms.p50:.3f}" for floor in floors)])
    note = f"differences from {first[0]} on the {first[1]}"
    click.echo(heading("perf.studies.gpu", note, rounds=rounds, seconds=seconds))
    for (form, device), reason in left_out.items():
        click.echo(f"Not run: {form} on the {device}: {reason}\n")
    for table in (stacks, alone):
        click.echo(table.markdown())


if __name__ == "__main__":
    main()
