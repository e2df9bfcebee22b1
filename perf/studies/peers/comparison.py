"""This gateway and the peers, in turns on one machine: `carlarl bench peers`.

One system runs at a time. A round starts each, warms it, loads it and ends it; the order moves on
by one from round to round. A peer's answer is compared with this gateway's before it is measured.
"""

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec

from perf.bench import tables
from perf.bench.command import Say
from perf.bench.request_forms import in_turns
from perf.bench.results import Results
from perf.bench.tables import OURS
from perf.load import closed_loop, processes
from perf.load.generator import LoadError
from perf.load.observations import body
from perf.load.target import Target
from perf.studies.peers.systems import VERSION, Peer

TOLERANCE = 1e-5
GOLDEN_ROWS = 5

Actions = list[dict[str, float]]


def measure(
    peers: Sequence[Peer], rounds: int, seconds: float, concurrency: Sequence[int], say: Say
) -> Results:
    """Measure this gateway and the peers, each installed where it is not there.

    One that fails is left out from then on. Ctrl-C ends it early and keeps what was measured.
    Raises LoadError where this gateway fails.
    """
    options = [f"--peer={peer.name}" for peer in peers]
    options += [f"--repeats={rounds}", f"--duration={seconds:g}"]
    options.append(f"--concurrency={','.join(map(str, concurrency))}")
    found = Results.of(shlex.join(["carlarl", "bench", "peers", *options]))
    found.settings |= {peer.name: peer.requirements[0] for peer in peers}
    golden: Actions = []  # ours, which is first in the first round
    failed: set[Peer] = set()
    try:
        for turn, peer in in_turns([None, *peers], rounds):
            if peer in failed:
                continue
            say(f"round {turn} of {rounds}: {peer.name if peer else OURS}")
            try:
                with _running(peer) as target:
                    golden = _checked(target.url, golden)
                    closed_loop.run(target, max(concurrency), 1.0)  # warm
                    for connections in concurrency:
                        one = closed_loop.run(target, connections, seconds)
                        if one.failed:
                            raise LoadError(f"requests failed: {one.errors}")
                        found.measurements.append(one)
                        say(f"  {connections} connections: {one.requests_per_s:,.0f}/s")
            except LoadError as error:
                if peer is None:
                    raise
                failed.add(peer)
                found.left_out.append(f"{peer.name}: {'; '.join(str(error).splitlines())}")
                say(found.left_out[-1])
    except KeyboardInterrupt:
        found.interrupted = True
    return found


@contextmanager
def _running(peer: Peer | None) -> Iterator[Target]:
    if peer is None:
        with processes.gateway(**processes.ALONE) as served:
            yield Target(served.url, OURS, VERSION)
    else:
        form = "torchscript" if "torchscript" in peer.model else "onnx"
        with peer.running() as url:
            yield Target(url, peer.name, VERSION, form)


def _checked(url: str, golden: Actions) -> Actions:
    """Return the golden actions, a server's own if there are none; it has to answer the same."""
    answer = httpx.post(f"{url}/predict", json=body(GOLDEN_ROWS), timeout=30, trust_env=False)
    try:
        actions = msgspec.convert(answer.json()["actions"], Actions)
    except (ValueError, KeyError, TypeError):
        said = f"{answer.status_code}: {answer.text[:200]}"
        raise LoadError(f"its answer is not the JSON of /predict: {said}") from None
    golden = golden or actions
    same = [one.keys() for one in actions] == [one.keys() for one in golden] and all(
        abs(one[part] - other[part]) <= TOLERANCE
        for one, other in zip(actions, golden, strict=True)
        for part in one
    )
    if not same:
        raise LoadError(f"it answers {actions}, and this gateway {golden}")
    return golden


def keep(results: Results, folder: Path) -> Path:
    """Write results and table into a folder; gives the path of the JSON."""
    if not results.interrupted:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "peers.md").write_text(markdown(results))
    return results.save(folder / "peers.json")


def markdown(results: Results) -> str:
    """Return the section of a page: the command, the machine and the table."""
    tools = " and ".join(sorted({one.tool for one in results.measurements}))
    return (
        f"Command: `{results.command}`. Closed loop, {tools} on the same {os.cpu_count()} cores. "
        "Medians of the rounds, ranges in brackets; a ratio is the median of the rounds' ratios to "
        f"this gateway. {results.machine}.\n\n{tables.systems(results).markdown()}"
    )
