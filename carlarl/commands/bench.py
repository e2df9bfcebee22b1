"""`carlarl bench`: measure the layers of a running stack, and compare with a baseline."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from carlarl.commands.options import (
    FORMAT_LIST,
    NEW_FILE,
    VERSION,
    Many,
    api_key_option,
    extra,
    json_option,
    repository_option,
    url_option,
)
from carlarl.errors import CommandError

if TYPE_CHECKING:
    from perf.results import Results

BASELINE = Path("perf/baseline.json")
RESULTS = Path("runs/bench.json")
REPORT = Path("runs/report")
REPEATS = 3
"""Repeats of what is kept or compared: a change must exceed their spread."""


LAYERS = Many(click.Choice(["in-process", "triton-http", "triton-grpc", "gateway"]))


@click.command()
@click.option(
    "--batch-sizes",
    type=Many(click.IntRange(1, 1000)),
    default=(1,),
    help="Observations in a request. [default: 1]",
)
@click.option(
    "--concurrency",
    type=Many(click.IntRange(1, 1000)),
    default=(1, 32),
    help="Callers at a time. [default: 1,32]",
)
@click.option(
    "--duration",
    type=click.FloatRange(1, 3600),
    default=5.0,
    help="Seconds of each measurement. [default: 5]",
)
@click.option("--formats", type=FORMAT_LIST, help="[default: the one that is served]")
@click.option("--versions", type=Many(VERSION), help="[default: the active one]")
@click.option(
    "--rate",
    "rates",
    type=Many(click.FloatRange(1, 1e6)),
    help="Requests a second, sent to the gateway at that rate whatever it answers: an open loop, "
    "whose latencies count from when a request was due.",
)
@click.option("--layers", type=LAYERS, help="[default: all]")
@click.option("--repeats", type=click.IntRange(1, 100), help="[default: 1; 3 with a baseline]")
@url_option
@api_key_option
@repository_option
@click.option(
    "--collect-baseline", is_flag=True, help=f"Keep the results as the baseline, {BASELINE}."
)
@click.option(
    "--save-results",
    type=NEW_FILE,
    is_flag=False,
    flag_value=str(RESULTS),
    help=f"Keep the results in this file. [without a file: {RESULTS}]",
)
@click.option(
    "--compare-baseline",
    type=NEW_FILE,
    is_flag=False,
    flag_value=str(BASELINE),
    help="Compare with these results, and fail where a case is worse. "
    f"[without a file: {BASELINE}]",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1000),
    default=10.0,
    help="Percent by which a case may be worse. [default: 10]",
)
@click.option(
    "--peers",
    is_flag=True,
    help="Instead: measure other ways to serve the same policy, each installed into an environment "
    "of its own, in turns with this one. One table, one chart.",
)
@click.option(
    "--memory",
    is_flag=True,
    help="Instead: watch the memory of a stack of its own over --requests; fails where it grows.",
)
@click.option(
    "--requests",
    type=click.IntRange(1),
    default=500_000,
    help="For --memory. [default: 500000]",
)
@click.option("--generate-report", is_flag=True, help="Write an HTML page with charts.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Folder of the report. [default: {REPORT}]",
)
@json_option
def bench(
    batch_sizes: tuple[int, ...],
    concurrency: tuple[int, ...],
    duration: float,
    formats: tuple[str, ...] | None,
    versions: tuple[str, ...] | None,
    rates: tuple[float, ...] | None,
    layers: tuple[str, ...] | None,
    repeats: int | None,
    url: str | None,
    api_key: str | None,
    repository: Path | None,
    collect_baseline: bool,
    save_results: Path | None,
    compare_baseline: Path | None,
    threshold: float,
    peers: bool,
    memory: bool,
    requests: int,
    generate_report: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure the policy in process, Triton, and the gateway: each millisecond has an owner.

    It measures the gateway at --url, or the one that answers where HOST and PORT say, or else a
    stack of its own on free ports. The figures of the gateway are of a closed loop (each caller
    waits for its answer) by wrk; with --rate, of an open loop too. Triton is measured by its
    perf_analyzer. What is missing is left out, and said. Ctrl-C keeps what was measured.

    \b
    Example: carlarl bench --batch-sizes 1 --concurrency 8 --duration 3 --json
    Example: carlarl bench --collect-baseline
    Example: carlarl bench --compare-baseline --threshold 10
    Example: carlarl bench --peers --memory --generate-report
    """
    if peers or memory:
        if collect_baseline or compare_baseline is not None:
            raise click.UsageError("a baseline is of neither --peers nor --memory")
        from carlarl.commands import bench_others

        bench_others.run(
            peers,
            memory,
            rounds=repeats or 5,
            seconds=duration,
            concurrency=concurrency,
            requests=requests,
            save=save_results,
            report=(output or REPORT) if generate_report else None,
            as_json=as_json,
        )
        return
    from carlarl.commands import benchmark
    from perf import results as files
    from perf import suite

    kept = collect_baseline or compare_baseline is not None
    plan = suite.Plan(
        batch_sizes=batch_sizes,
        concurrency=concurrency,
        duration=duration,
        formats=formats or (),
        versions=versions or (),
        rates=rates or (),
        layers=layers or suite.LAYERS,
        repeats=repeats or (REPEATS if kept else 1),
    )
    try:
        before = None if compare_baseline is None else files.load(compare_baseline)
    except files.ResultsError as error:
        raise CommandError(f"{error}; `carlarl bench --collect-baseline` makes one") from None
    found = benchmark.measure(plan, url, api_key, repository)
    show(found, as_json)
    if found.interrupted:  # no baseline, but kept
        save_results = save_results or RESULTS
    elif collect_baseline and save_results in (None, RESULTS):
        save_results = BASELINE
    if save_results is not None and found.measurements:
        try:
            found.save(save_results)
        except OSError as error:
            raise CommandError(f"{save_results}: {error.strerror}") from None
        click.echo(f"kept in {save_results}", err=True)
    if generate_report and found.measurements:
        with extra("bench"):
            from perf.report import write
        page = write(found, output or REPORT)
        click.echo(f"report: {page}", err=True)
    if found.interrupted:
        raise click.Abort
    if not found.measurements:
        raise CommandError("nothing was measured:\n" + "\n".join(found.left_out))
    if before is not None:
        compare(before, found, threshold)


def show(results: Results, as_json: bool) -> None:
    """Print the results: as JSON, or as tables with what was left out."""
    import msgspec

    from perf import open_loop

    if as_json:
        click.echo(msgspec.json.encode(results))
    else:
        from rich.console import Console

        from perf import tables

        terminal = sys.stdout.isatty()
        console = Console(width=None if terminal else 200)  # whoever keeps it wants no broken cells
        for table in tables.tables(results, markdown=not terminal):
            console.print(table)
        click.echo(str(results.machine))
    for measurement in results.measurements:
        if (trouble := open_loop.trouble(measurement)) is not None:
            click.echo(f"{measurement.name}: {trouble}", err=True)
        if measurement.errors:
            failed = ", ".join(f"{count} {kind}" for kind, count in measurement.errors.items())
            click.echo(f"{measurement.name}: failed: {failed}", err=True)
    for reason in results.left_out:
        click.echo(f"left out: {reason}", err=True)


def compare(before: Results, now: Results, threshold: float) -> None:
    """Say what became worse than the baseline; then exit status 1."""
    from perf import comparison

    if before.machine.cpu != now.machine.cpu or before.machine.cores != now.machine.cores:
        click.echo(f"the baseline is of another machine: {before.machine}", err=True)
    found = comparison.compare(before, now, threshold)
    for case in found.missing:
        click.echo(f"not measured now: {case}", err=True)
    if not found.changes:
        raise CommandError("nothing to compare: no case was measured both now and for the baseline")
    if found.worse:
        lines = "\n".join(f"  {change}" for change in found.worse)
        raise CommandError(f"worse than the baseline by more than {threshold:g} %:\n{lines}")
    click.echo(f"no case is worse than the baseline by more than {threshold:g} %", err=True)
