"""`carlarl bench`: measure a running stack, compare with a baseline, with peers, watch memory."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from carlarl.commands.options import (
    NEW_FILE,
    Many,
    api_key_option,
    extra,
    json_option,
    repository_option,
    url_option,
)
from carlarl.errors import CommandError

if TYPE_CHECKING:
    from perf.bench.results import Results

BASELINE = Path("perf/baseline.json")
RESULTS = Path("runs/bench.json")
LAYERS = click.Choice(["in-process", "triton-http", "triton-grpc", "gateway"])


concurrency_option = click.option(
    "--concurrency",
    type=Many(click.IntRange(1, 1000)),
    default=(1, 32),
    help="Callers at a time. [default: 1,32]",
)
duration_option = click.option(
    "--duration",
    type=click.FloatRange(1, 3600),
    default=5.0,
    help="Seconds of each measurement. [default: 5]",
)


@click.group()
def bench() -> None:
    """Measure how fast this is on your machine, and how much memory it holds.

    \b
    Example: carlarl bench run --concurrency 8 --duration 3 --json
    Example: carlarl bench run --repeats 3 --save-results
    Example: carlarl bench compare --threshold 10
    """


@bench.command()
@click.option(
    "--batch-sizes",
    type=Many(click.IntRange(1, 1000)),
    default=(1,),
    help="Observations in a request. [default: 1]",
)
@concurrency_option
@duration_option
@click.option(
    "--rate",
    "rates",
    type=Many(click.FloatRange(1, 1e6)),
    default=(),
    help="Requests a second, sent to the gateway at that rate whatever it answers: an open loop, "
    "whose latencies count from when a request was due.",
)
@click.option("--layers", type=Many(LAYERS), default=tuple(LAYERS.choices), help="[default: all]")
@click.option("--repeats", type=click.IntRange(1, 100), default=1, help="[default: 1]")
@url_option
@api_key_option
@repository_option
@click.option(
    "--save-results",
    "save",
    type=NEW_FILE,
    is_flag=False,
    flag_value=str(RESULTS),
    help=f"Keep the results in this file. [without a file: {RESULTS}]",
)
@json_option
def run(
    url: str | None,
    api_key: str | None,
    repository: Path | None,
    save: Path | None,
    as_json: bool,
    **plan: Any,
) -> None:
    """Measure the policy alone, Triton, and the gateway, side by side.

    It measures the gateway at --url, or the one that answers where HOST and PORT say, or else a
    stack of its own on free ports. `wrk` measures the gateway in a closed loop (each caller waits
    for its answer); --rate adds an open loop. `perf_analyzer` measures Triton. What is missing is
    left out, and named. Ctrl-C keeps what was measured.

    \b
    Example: carlarl bench run --batch-sizes 1,32 --concurrency 1,8,32
    Example: carlarl bench run --layers gateway --rate 500,2000
    Example: carlarl bench run --repeats 3 --save-results perf/baseline.json
    """
    from carlarl.commands import benchmark
    from perf.bench.suite import Plan

    found = benchmark.measure(Plan(**plan), url, api_key, repository)
    benchmark.show(found, as_json)
    if not found.measurements:
        reasons = "\n".join(found.left_out)
        raise (
            click.Abort if found.interrupted else CommandError(f"nothing was measured:\n{reasons}")
        )
    if save is not None or found.interrupted:
        _keep(found, save or RESULTS)
    if found.interrupted:
        raise click.Abort


def _keep(results: "Results", path: Path) -> None:
    try:
        kept = results.save(path)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    click.echo(f"kept in {kept}", err=True)


@bench.command()
@click.argument("before", type=NEW_FILE, default=BASELINE)
@click.argument("now", type=NEW_FILE, default=RESULTS)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1000),
    default=10.0,
    help="Percent by which a case may be worse. [default: 10]",
)
def compare(before: Path, now: Path, threshold: float) -> None:
    """Compare two results of `bench run`; fail where a case is worse.

    Exit status 1 names what became worse. BEFORE is perf/baseline.json and NOW is runs/bench.json,
    unless other files are given. Measure both with --repeats 3 or more: a difference no larger than
    between the repeats of one file does not count.

    \b
    Example: carlarl bench compare
    Example: carlarl bench compare monday.json friday.json --threshold 20
    """
    from perf.bench import comparison, results

    old, new = results.load(before), results.load(now)
    if old.machine.cpu != new.machine.cpu or old.machine.cores != new.machine.cores:
        click.echo(f"{before} is of another machine: {old.machine}", err=True)
    found = comparison.compare(old, new, threshold)
    for case in found.missing:
        click.echo(f"not measured now: {case}", err=True)
    if not found.changes:
        raise CommandError(f"nothing to compare: no case is both in {before} and in {now}")
    if found.worse:
        lines = "\n".join(f"  {change}" for change in found.worse)
        raise CommandError(f"worse than {before} by more than {threshold:g} %:\n{lines}")
    click.echo(f"no case is worse than {before} by more than {threshold:g} %", err=True)


@bench.command()
@click.option("--peer", "names", multiple=True, help="Only this one; may be given several times.")
@click.option("--repeats", type=click.IntRange(1, 100), default=5, help="[default: 5]")
@duration_option
@concurrency_option
def peers(
    names: tuple[str, ...], repeats: int, duration: float, concurrency: tuple[int, ...]
) -> None:
    """Measure other ways to serve the policy, in turns with this one.

    Each is installed into an environment of its own. Table and results go to runs/peers/.

    Example: carlarl bench peers --peer litserve --repeats 3
    """
    with extra("bench"):
        from perf.studies.peers import comparison
        from perf.studies.peers.systems import PEERS

        if unknown := set(names) - set(PEERS):
            raise click.UsageError(f"--peer: {', '.join(unknown)}: choose from {', '.join(PEERS)}")
        chosen = [PEERS[name] for name in names or PEERS]
        found = comparison.measure(chosen, repeats, duration, concurrency, _say)
        click.echo(comparison.markdown(found))
        _say(f"kept in {comparison.keep(found, Path('runs/peers'))}")
    if found.interrupted:
        raise click.Abort


@bench.command()
@click.option("--requests", type=click.IntRange(1), default=500_000, help="[default: 500000]")
def memory(requests: int) -> None:
    """Watch the memory of gateway and Triton; fail where it grows.

    A stack of its own runs under load. Exit status 1 says what grows; perf/README.md says what to
    do then. Samples and verdicts go to runs/memory/.

    Example: carlarl bench memory --requests 100000
    """
    with extra("bench"):
        from perf.studies import memory as watching

        found = watching.measure(requests, _say)
        for verdict in found.verdicts:
            click.echo(verdict.text)
        _say(f"kept in {found.save(Path('runs/memory/memory.json'))}")
    if found.interrupted:
        raise click.Abort
    if grows := [verdict.part for verdict in found.verdicts if verdict.kind == "grows"]:
        raise CommandError(f"memory grows: {', '.join(grows)}")


def _say(line: str) -> None:
    click.echo(line, err=True)
