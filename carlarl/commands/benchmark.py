"""Measure a stack with progress on the terminal: one that runs, or one started for it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn

from carlarl.errors import CommandError
from gateway.settings import Settings, read_settings
from perf import machine, processes, suite
from perf.results import Results
from perf.target import TargetError


def measure(
    plan: suite.Plan, url: str | None, api_key: str | None, repository: Path | None
) -> Results:
    """Measure the plan with progress on standard error, until it is done or interrupted."""
    results = Results(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["carlarl", *sys.argv[1:]]).replace(api_key or "\0", "…"),
        machine=machine.facts(),
        settings={},
    )
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: keep what was measured
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        with stack(url, api_key, repository, plan.formats) as (found, settings):
            results.settings = settings
            work = suite.work(plan, found)
            results.left_out = work.left_out
            _measure(work, plan.repeats, results, Console(stderr=True))
    except (TargetError, processes.StartError) as error:
        raise CommandError(str(error)) from None
    except KeyboardInterrupt:
        results.interrupted = True
    return results


def _measure(work: suite.Work, repeats: int, results: Results, console: Any) -> None:
    ends = [0.0, 0.0]
    """When the job that runs will end, and how long those after it will take."""

    class Remaining(ProgressColumn):
        def render(self, task: Any) -> Any:
            left = max(0.0, ends[0] - time.monotonic()) + ends[1]
            return f"{left // 60:.0f}:{left % 60:02.0f} left"

    def on_job(job: Any, after: float) -> None:
        ends[:] = time.monotonic() + job.seconds, after
        progress.update(task, description=job.name)

    columns = (BarColumn(20), MofNCompleteColumn(), Remaining(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(work.jobs) * repeats)
        for measurement in suite.run(work, repeats, on_job):
            results.measurements.append(measurement)
            progress.update(task, advance=1)


@contextlib.contextmanager
def stack(
    url: str | None, api_key: str | None, repository: Path | None, formats: tuple[str, ...]
) -> Iterator[tuple[suite.Stack, dict[str, str]]]:
    """Return the stack to measure, started where none runs, and its settings as far as known."""
    settings = read_settings(model_repository=repository)
    folder = settings.model_repository.absolute()
    known = {name.upper(): os.environ.get(name.upper(), "") for name in Settings.model_fields}
    known = {name: value for name, value in known.items() if value}
    if url is not None and not url.startswith(("http://", "https://")):
        raise click.UsageError(f"--url: {url!r} must begin with http:// or https://")
    if url is None and _listens(settings.gateway_url):
        url = settings.gateway_url
        click.echo(f"measuring the gateway at {url}", err=True)
    if url is not None:
        host = urlsplit(url).hostname
        host = "127.0.0.1" if host in ("localhost", "::1", None) else host
        triton = urlsplit(settings.triton_url or f"http://{host}:{settings.triton_http_port}")
        grpc = f"{triton.hostname}:{settings.triton_grpc_port}"
        address = f"{triton.hostname}:{triton.port or 80}"
        yield suite.Stack(url.rstrip("/"), address, grpc, folder, api_key), known | {"URL": url}
        return
    click.echo("no gateway answers: starting a stack on free ports", err=True)
    own = {"HOST": "127.0.0.1", "MODEL_REPOSITORY": str(folder), "TRITON_URL": ""}
    with processes.stack(("onnx", *formats), **own, API_KEYS_FILE="") as ports:
        http, triton_http, triton_grpc = (f"127.0.0.1:{port}" for port in ports[:3])
        yield suite.Stack(f"http://{http}", triton_http, triton_grpc, folder), known


def _listens(url: str) -> bool:
    try:
        httpx.get(f"{url}/livez", timeout=2, trust_env=False)
    except httpx.TransportError:
        return False
    return True
