"""`carlarl drive`: drive the example track through a running gateway."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from carlarl.commands import options
from carlarl.errors import CommandError

if TYPE_CHECKING:
    from rich.progress import Progress

    from examples.drive import DriveResult, Service
    from examples.latency import LatencyResult
    from examples.track import TrackEnv


def _latency(text: str) -> float | None:
    """Return milliseconds, or None for `measured`."""
    if text == "measured":
        return None
    try:
        if 0.0 <= float(text) <= 1000.0:
            return float(text)
    except ValueError:
        pass
    raise ValueError(f"{text!r}: give milliseconds, 0 to 1000, or `measured`")


@click.command()
@click.option("--laps", type=click.IntRange(1), default=3, show_default=True)
@click.option("--output", type=options.NEW_FILE, help="PNG of the drive.")
@click.option(
    "--latency",
    "latencies",
    type=options.Many(options.Checked("MS", _latency)),
    help="Drive once with each of these latencies, in simulated time, and compare: milliseconds, "
    "or `measured` for the time that each answer took.",
)
@click.option("--stochastic", is_flag=True, help="Sample actions instead of taking their mean.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Repeats a stochastic drive.")
@click.option("--version", type=options.VERSION, help="[default: the active one]")
@options.url_option
@options.api_key_option
@options.json_option
def drive(
    laps: int,
    output: Path | None,
    latencies: tuple[float | None, ...] | None,
    stochastic: bool,
    seed: int | None,
    version: str | None,
    url: str | None,
    api_key: str | None,
    as_json: bool,
) -> None:
    """Drive the example track through the gateway, and draw how it went.

    \b
    Example: carlarl drive --laps 3 --output drive.png
    Example: carlarl drive --latency 0,5,20,50,100 --output latency.png
    """
    with options.extra("drive"):
        from examples import drive as driver
        from examples import latency
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    if output is not None and not output.absolute().parent.is_dir():
        raise click.UsageError(f"--output: {output.parent} is no folder")
    base = options.gateway_url(url)
    served = options.call_gateway(url, "/metadata", api_key, method="GET")
    kind = _environment(served, version)
    columns = (
        TextColumn("{task.description}{task.completed:.2f} of {task.total} laps"),
        BarColumn(),
        TimeElapsedColumn(),
    )
    try:
        with (
            driver.Service(
                base, deterministic=not stochastic, seed=seed, version=version, api_key=api_key
            ) as service,
            Progress(*columns, console=Console(stderr=True)) as progress,
        ):
            if latencies:
                results = _compare(service, kind, latencies, laps, progress)
            else:
                task = progress.add_task("", total=laps)
                result = driver.drive(
                    service,
                    laps,
                    kind=kind,
                    on_progress=lambda _, done: progress.update(task, completed=min(done, laps)),
                )
    except driver.DriveError as error:
        raise CommandError(str(error)) from None
    if output is not None and latencies:
        latency.plot(results, laps, output)
    elif output is not None:
        driver.plot(result, output)
    if as_json:
        summary = [one.summary() for one in results] if latencies else result.summary()
        click.echo(json.dumps(summary))
        return
    click.echo(latency.table(results) if latencies else _told(result))
    if output is not None:
        click.echo(f"drawn in {output}")
    if not latencies and result.laps < laps:
        raise CommandError(f"gave up after {result.steps} steps with {result.laps} of {laps} laps")


def _environment(metadata: dict[str, Any], version: str | None) -> "type[TrackEnv]":
    """Return what shows the track as the active version observes it; refuse one that can't drive.

    `version` is what is asked for.
    """
    from examples.drive import environment
    from examples.track import TrackEnv

    active = metadata.get("version")
    kind = environment(metadata)
    if kind is None and version in (None, active):
        raise CommandError(
            f"{active} takes other observations than the track's (steering and five range finders, "
            "with or without the speed, or speed and a raster of the road), or answers no "
            "throttle, brake and steer: `carlarl predict` asks it for an action"
        )
    return kind or TrackEnv


def _told(result: "DriveResult") -> str:
    best = f", best {min(result.lap_times_s):.2f} s" if result.lap_times_s else ""
    latency = "  ".join(f"{name} {value:.2f}" for name, value in result.latency_ms.items())
    return (
        f"{result.version}: {result.laps} laps{best}, {result.off_track} times off track, "
        f"mean {result.mean_speed_kmh:.1f} km/h\n"
        f"latency of {result.steps} requests, ms: {latency}"
    )


def _compare(
    service: "Service",
    kind: "type[TrackEnv]",
    latencies: tuple[float | None, ...],
    laps: int,
    progress: "Progress",
) -> "list[LatencyResult]":
    """Drive once for each latency."""
    from examples import latency

    results = []
    for charged in latencies:
        name = "measured" if charged is None else f"{charged:g} ms"
        task = progress.add_task(f"{name}: ", total=laps)

        def show(done: float, task: Any = task) -> None:
            progress.update(task, completed=min(done, laps))

        results.append(latency.drive_late(service, charged, laps, kind=kind, on_progress=show))
    return results
