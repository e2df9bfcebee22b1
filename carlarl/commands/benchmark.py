"""`carlarl bench run`: measure a stack with progress on the terminal, and show the results."""

import contextlib
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import click
import msgspec
import rich.box
import rich.table
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from carlarl.commands.options import gateway_url
from gateway.config.settings import read_settings
from perf.bench import suite
from perf.bench.results import Results
from perf.bench.tables import tables
from perf.load import open_loop, processes


def measure(
    plan: suite.Plan, url: str | None, api_key: str | None, repository: Path | None
) -> Results:
    """Measure the plan with progress on standard error, until it is done or interrupted."""
    command = shlex.join(["carlarl", *sys.argv[1:]]).replace(api_key or "\0", "…")
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: keep what was measured
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    with stack(url, api_key, repository) as found:
        results = Results.of(command, **({"URL": found.url} if found.runs else {}))
        try:
            jobs, results.left_out = suite.jobs(plan, found)
            _measure(jobs, plan.repeats, results)
        except KeyboardInterrupt:
            results.interrupted = True
    return results


def _measure(jobs: suite.Jobs, repeats: int, results: Results) -> None:
    columns = (
        BarColumn(20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(jobs) * repeats)

        def on_job(name: str, done: int) -> None:
            progress.update(task, description=name, completed=done)

        for measurement in suite.run(jobs, repeats, on_job, results.left_out):
            results.measurements.append(measurement)


@contextlib.contextmanager
def stack(url: str | None, api_key: str | None, repository: Path | None) -> Iterator[suite.Stack]:
    """Return the stack to measure, started where none runs."""
    settings = read_settings(model_repository=repository)
    folder = settings.model_repository.absolute()
    place = gateway_url(url)
    if url is None and processes.answers(f"{place}/livez"):
        url = place
        click.echo(f"measuring the gateway at {url}", err=True)
    if url is not None:
        host = urlsplit(place).hostname
        host = "127.0.0.1" if host in ("localhost", "::1", None) else host
        triton = urlsplit(settings.triton_url or f"http://{host}:{settings.triton_http_port}")
        grpc = f"{triton.hostname}:{settings.triton_grpc_port}"
        address = f"{triton.hostname}:{triton.port or 80}"
        yield suite.Stack(place, address, grpc, folder, api_key, runs=True)
        return
    click.echo("no gateway answers: starting a stack on free ports", err=True)
    own = processes.ALONE | {"MODEL_REPOSITORY": str(folder)}
    with processes.gateway(**own) as served:
        yield suite.Stack(served.url, served.http, served.grpc, folder)


def show(results: Results, as_json: bool) -> None:
    """Print the results: as JSON, or as tables; what failed or was left out goes to stderr."""
    if as_json:
        click.echo(msgspec.json.encode(results))
    else:
        for table in tables(results):
            if sys.stdout.isatty():
                shown = rich.table.Table(*table.head, title=table.title, box=rich.box.SIMPLE_HEAD)
                for row in table.rows:
                    shown.add_row(*row)
                Console().print(shown)
            else:
                click.echo(table.markdown())
        click.echo(str(results.machine))
    for measurement in results.measurements:
        if (trouble := open_loop.trouble(measurement)) is not None:
            click.echo(f"{measurement.name}: {trouble}", err=True)
        if measurement.errors:
            failed = ", ".join(f"{count} {kind}" for kind, count in measurement.errors.items())
            click.echo(f"{measurement.name}: failed: {failed}", err=True)
    for reason in results.left_out:
        click.echo(f"left out: {reason}", err=True)
