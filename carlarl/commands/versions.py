"""Commands about the versions in the model repository, and which of them is active."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from carlarl.commands import options
from carlarl.commands.options import FORMATS, Failure, Version, extra, public_key, read

SHOWN = ("success_rate", "mean_lap_time_s", "mean_speed_kmh", "reward")
"""Metrics that the table has room for; --json has all."""


@click.command()
@options.repository_option
@options.json_option
def versions(repository: Path | None, as_json: bool) -> None:
    """List the versions in the model repository.

    Example: carlarl versions
    """
    from rich.console import Console
    from rich.table import Table

    from converters.repository import repository as repositories

    try:
        found = repositories.versions(read(model_repository=repository).model_repository)
    except repositories.RepositoryError as error:
        raise Failure(str(error)) from None
    if as_json:
        click.echo(json.dumps([asdict(version) for version in found]))
        return
    table = Table("version", "active", "formats", "artifact", "metrics")
    for one in found:
        shown = [name for name in SHOWN if one.metrics.get(name) is not None]
        metrics = ", ".join(f"{name} {one.metrics[name]}" for name in shown)
        mark = "●" if one.active else ""
        table.add_row(one.version, mark, ", ".join(one.formats), one.digest[:19], metrics)
    Console().print(table)


@click.command()
@options.artifacts_option
@options.repository_option
@click.option(
    "--version", "versions", type=Version(), multiple=True, help="Only this one. [default: all]"
)
@click.option("--activate", type=Version(), help="Make this version the active one.")
@click.option(
    "--formats",
    type=options.Formats(),
    default=FORMATS[:2],
    help="Formats to write, of onnx, torchscript and tensorrt; the first is served. "
    "[default: onnx,torchscript]",
)
@click.option(
    "--compute-capability",
    "capabilities",
    type=options.Capabilities(),
    multiple=True,
    help="Kinds of GPU that TensorRT engines are for, like 8.6; repeat it, or separate them by "
    "commas. [default: the GPU here with NVIDIA's tensorrt, else 8.6,8.9,12.0]",
)
@click.option(
    "--flavour",
    type=click.Choice(["python", "native"]),
    default="python",
    help="What serves it: Triton's Python backend, as `carlarl serve` has it, or a stock Triton's "
    "C++ backends. [default: python]",
)
@options.json_option
def export(
    artifacts: Path | None,
    repository: Path | None,
    versions: tuple[str, ...],
    activate: str | None,
    formats: tuple[str, ...],
    capabilities: tuple[tuple[str, ...], ...],
    flavour: str,
    as_json: bool,
) -> None:
    """Write artifacts into the model repository: all of it, or nothing.

    The active version stays active unless --activate names another.

    \b
    Example: carlarl export --version v0.2.0 --activate v0.2.0
    Example: carlarl export --formats onnx,torchscript,tensorrt --compute-capability 8.6
    Example: carlarl export --flavour native --repository native_repository
    """
    if capabilities and "tensorrt" not in formats:
        raise click.UsageError("--compute-capability is for tensorrt: add it to --formats")
    with extra("convert"):
        from converters.artifact import artifact
        from converters.artifact.card import ArtifactError
        from converters.export import export, parity
        from converters.export.tensorrt import BuilderError
        from converters.repository import repository as repositories
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    settings = read(artifact_dir=artifacts, model_repository=repository)
    source, target = settings.artifact_dir, settings.model_repository
    key = public_key(None)
    try:
        folders = [source / one for one in dict.fromkeys(versions)] or artifact.versions_in(source)
        with Progress(
            SpinnerColumn(), TextColumn("{task.description}"), console=Console(stderr=True)
        ) as progress:
            task = progress.add_task("export")
            result = export.export(
                folders,
                target,
                formats,
                activate,
                lambda version, step: progress.update(task, description=f"{version}: {step}"),
                tuple(one for given in capabilities for one in given),
                flavour,
                key=key,
            )
    except (
        ArtifactError,
        BuilderError,
        parity.ParityError,
        repositories.RepositoryError,
    ) as error:
        raise Failure(str(error)) from None
    if as_json:
        click.echo(json.dumps({"versions": result.versions, "active": result.active}))
    else:
        click.echo(f"{target}: wrote {', '.join(result.versions)}; active is {result.active}")


triton_option = click.option(
    "--triton",
    metavar="URL",
    help="Triton's HTTP endpoint; TRITON_GRPC_PORT is its gRPC port. [default: $TRITON_URL, or the "
    "embedded server where one runs]",
)
offline_option = click.option(
    "--offline", is_flag=True, help="Change the repository alone, whatever runs."
)


@click.command()
@click.argument("version", type=Version())
@options.repository_option
@triton_option
@offline_option
@options.json_option
def promote(
    version: str, repository: Path | None, triton: str | None, offline: bool, as_json: bool
) -> None:
    """Make a version the active one, in the repository and in the Triton that is running.

    The server loads it beside the active version, warms it and must repeat its recorded answers
    before the alias moves. No request fails meanwhile; gateways follow within two seconds. Where a
    step fails, the old version stays active.

    Example: carlarl promote v0.2.0
    """
    from carlarl.promotion import promote

    _switch(
        lambda folder, server, progress: promote.promote(folder, version, server, progress),
        repository,
        triton,
        offline,
        as_json,
    )


@click.command()
@options.repository_option
@triton_option
@offline_option
@options.json_option
def rollback(repository: Path | None, triton: str | None, offline: bool, as_json: bool) -> None:
    """Go back to the version that was active before, as carefully as promote.

    Run again it goes further back, through the history of promotions.

    Example: carlarl rollback
    """
    from carlarl.promotion import promote

    _switch(promote.rollback, repository, triton, offline, as_json)


def _switch(
    change: Callable[[Path, Any, Callable[[str], None]], Any],
    repository: Path | None,
    triton: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    if offline and triton:
        raise click.UsageError("--offline takes no server: leave out --triton")
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    from carlarl.promotion import promote

    settings = read(model_repository=repository, triton_url=triton)
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    try:
        with (
            promote.running_triton(None if offline else settings) as server,
            Progress(*columns, console=Console(stderr=True)) as progress,
        ):
            task = progress.add_task("")
            done = change(
                settings.model_repository,
                server,
                lambda step: progress.update(task, description=step),
            )
    except promote.PromotionError as error:
        raise Failure(str(error)) from None
    if as_json:
        click.echo(json.dumps(asdict(done)))
        return
    was = f"was {done.previous}" if done.previous != done.version else "as before"
    where = f"on {done.triton}" if done.triton else "in the repository; no running Triton was asked"
    click.echo(f"active is {done.version} ({was}) {where}, {done.seconds:.1f} s")


COMMANDS = (versions, export, promote, rollback)
