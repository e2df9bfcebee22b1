"""`carlarl bench --peers` and `--memory`: what is measured of stacks of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from carlarl.commands.options import extra
from carlarl.errors import CommandError

FOLDER = Path("runs")


def run(
    peers: bool,
    memory: bool,
    *,
    rounds: int,
    seconds: float,
    concurrency: Sequence[int],
    requests: int,
    save: Path | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Measure either or both, keep table and charts below `runs/`; raises CommandError."""
    with extra("bench"):
        from perf import memory as watching
        from perf import report as page
        from perf.closed_loop import LoadError
        from perf.peers import comparison
        from perf.peers.environments import PeerError
        from perf.peers.systems import PEERS
        from perf.processes import StartError
        from perf.results import merged

    def say(line: str) -> None:
        click.echo(line, err=True)

    parts, said, failure = [], [], ""
    try:
        if peers:
            found = comparison.run(list(PEERS), rounds, seconds, concurrency, say=say)
            parts.append(found)
            said.append(comparison.keep(found, FOLDER / "peers"))
        if memory and not (parts and parts[0].interrupted):
            found = watching.measure(requests, say=say)
            parts.append(found)
            verdicts = watching.keep(found, FOLDER / "memory")
            said += [verdict.text for verdict in verdicts]
            grows = [verdict.part for verdict in verdicts if verdict.kind == "grows"]
            failure = f"memory grows: {', '.join(grows)}" if grows else ""
    except (LoadError, PeerError, StartError, ValueError) as error:
        raise CommandError(str(error)) from None
    together = merged(parts)
    click.echo(msgspec.json.encode(together) if as_json else "\n".join(said))
    if save is not None:
        together.save(save)
        say(f"kept in {save}")
    if report is not None:
        say(f"report: {page.write(together, report)}")
    if together.interrupted:
        raise click.Abort
    if failure:
        raise CommandError(failure)
