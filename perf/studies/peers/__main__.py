"""`python -m perf.studies.peers`: measure, and write one table and one chart."""

from __future__ import annotations

from pathlib import Path

import click

from perf.load.closed_loop import LoadError
from perf.load.processes import StartError
from perf.studies.peers import comparison
from perf.studies.peers.environments import CACHE, PeerError
from perf.studies.peers.systems import PEERS


@click.command()
@click.option(
    "--peer",
    "names",
    multiple=True,
    type=click.Choice(list(PEERS)),
    help="Only this one; may be given several times. [default: all]",
)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(1))
@click.option("--concurrency", default="1,32", show_default=True, help="Connections.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/peers"),
    show_default=True,
    help="Folder of peers.json, peers.md and peers.png.",
)
@click.option(
    "--environments",
    type=click.Path(file_okay=False, path_type=Path),
    default=CACHE,
    show_default=True,
    help="Where each peer's virtual environment is kept.",
)
def main(
    names: tuple[str, ...],
    rounds: int,
    seconds: float,
    concurrency: str,
    output: Path,
    environments: Path,
) -> None:
    """Measure this gateway and other ways to serve the same policy, in turns."""
    try:
        callers = [int(part) for part in concurrency.split(",")]
    except ValueError:
        raise click.UsageError(f"--concurrency: {concurrency!r} are no numbers") from None
    try:
        results = comparison.run(
            names or list(PEERS),
            rounds,
            seconds,
            callers,
            environments,
            lambda line: click.echo(line, err=True),
        )
    except (LoadError, PeerError, StartError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(comparison.keep(results, output))


if __name__ == "__main__":
    main()
