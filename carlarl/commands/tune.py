"""`carlarl tune`: the settings that are fastest on this machine, for the policy that is served."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from carlarl.commands.options import extra, json_option, repository_option
from gateway.config.settings import read_settings

if TYPE_CHECKING:
    from perf.studies.tuning import Found

TITLES = {
    "workers": "WORKERS",
    "calls": "CALLS_IN_FLIGHT",
    "instances": "instances",
    "threads": "threads",
    "batch": "observations in a call",
}


@click.command()
@repository_option
@click.option("--concurrency", default=32, show_default=True, type=click.IntRange(1, 1000))
@click.option("--rows", default=1, show_default=True, type=click.IntRange(1, 1000))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=2.0, show_default=True, type=click.FloatRange(1))
@click.option("--dry-run", is_flag=True, help="Change nothing.")
@json_option
def tune(
    repository: Path | None,
    concurrency: int,
    rows: int,
    rounds: int,
    seconds: float,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Measure what is fastest on this machine, and write it into the model repository.

    Gateway and Triton run with each candidate beside the setting as it is now, under the load of
    --concurrency connections with --rows observations in a request. What a gain has to exceed is
    measured too. Model instances, threads and the size of a call are written into the repository,
    for the next `carlarl serve`; WORKERS and CALLS_IN_FLIGHT are told, to be set. Ctrl-C keeps the
    best so far.

    Example: carlarl tune --dry-run
    """
    import psutil

    with extra("bench"):
        from carlarl.commands import tuned_repository
        from perf.studies import tuning

    settings = read_settings(model_repository=repository)
    root = settings.model_repository
    load = tuning.Load(concurrency, rows, seconds, rounds)
    default = tuned_repository.current(root, settings.calls_in_flight, settings.workers)
    found = _search(root, default, psutil.cpu_count() or 1, load)
    written: list[str] = []
    if found.changes_repository and not dry_run:
        written = tuned_repository.write(root, found.best)
    if as_json:
        click.echo(json.dumps(_told(found, written), indent=1))
    else:
        _show(found, written, dry_run)


def _search(root: Path, default: Any, cores: int, load: Any) -> "Found":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from carlarl.commands import tuned_repository
    from perf.studies import tuning

    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("start")

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=max(done, total))

        trial = partial(tuned_repository.trial, root)
        return tuning.search(trial, default, cores, load, progress)


def _told(found: "Found", written: list[str]) -> dict[str, Any]:
    told = asdict(found)
    told["noise"] = found.noise if found.per_s else None
    told["requests_per_s"] = told.pop("per_s")
    told["variables"] = found.best.variables
    told["written"] = written
    return told


def _show(found: "Found", written: list[str], dry_run: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("what", "value", "requests/s (range)")
    for name, tried in found.ratios.items():
        for value, ratio in tried.items():
            median, *ends = (each * found.per_s for each in (ratio.median, ratio.low, ratio.high))
            shown = f"{median:,.0f} ({ends[0]:,.0f}–{ends[1]:,.0f})" if median else "failed"
            table.add_row(TITLES[name], str(value), shown)
    if table.row_count:
        console.print(table)
    if not found.per_s:
        console.print("interrupted before anything was measured; nothing was changed")
        return
    now = f"{found.per_s:,.0f} requests/s as it is set now; two equal stacks differ by up to"
    console.print(f"{now} {found.noise:.0%}")
    if found.best == found.default:
        console.print("nothing was faster by more than that; nothing was changed")
        return
    if found.gain is not None:
        gain = f"{found.gain.median:.2f} times ({found.gain.low:.2f}–{found.gain.high:.2f})"
        console.print(f"the best setting gives {gain} as many")
    best = found.best
    if found.changes_repository:
        how = f"{best.instances} instances, {best.threads} threads each, "
        how += f"up to {best.batch} observations in a call"
        done = f"written into {', '.join(written)}" if written else "not written"
        why = " (--dry-run)" if dry_run else "; the next `carlarl serve` has it"
        console.print(f"model repository: {how}: {done}{why}")
    for variable, set_to in best.variables.items():
        if set_to != found.default.variables[variable]:
            console.print(f"set {variable}={set_to}")
