"""This gateway and the peers, in turns on one machine: `python -m perf.studies.peers`.

One system runs at a time. A round starts each, warms it, loads it and ends it; the order moves on
by one from round to round. A peer's answer is compared with this gateway's before it is measured.
"""

from __future__ import annotations

import os
import shlex
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import msgspec

from perf.bench import drawing, machine
from perf.bench.results import Measurement, Results
from perf.load import closed_loop, processes
from perf.load.observations import body
from perf.load.target import Target
from perf.studies.peers import chart
from perf.studies.peers.environments import CACHE, PeerError, install, running
from perf.studies.peers.systems import PEERS, VERSION, Peer

OURS = "carlarl"
TOLERANCE = 1e-5
WARM_S = 1.0
GOLDEN_ROWS = 5

Say = Callable[[str], None]
Actions = list[dict[str, float]]


def run(
    names: Sequence[str],
    rounds: int,
    seconds: float,
    concurrency: Sequence[int] = (1, 32),
    cache: Path = CACHE,
    say: Say = lambda line: None,
) -> Results:
    """Install the named peers where they are not, and `measure`."""
    environments: dict[Peer, Path] = {}
    left_out = []
    for name in names:
        say(f"{name}: install")
        try:
            environments[PEERS[name]] = install(PEERS[name], cache)
        except PeerError as error:
            left_out.append(f"{name}: {error}")
            say(left_out[-1])
    found = measure(environments, rounds, seconds, concurrency, say)
    found.left_out = left_out + found.left_out
    return found


def measure(
    environments: Mapping[Peer, Path],
    rounds: int,
    seconds: float,
    concurrency: Sequence[int] = (1, 32),
    say: Say = lambda line: None,
) -> Results:
    """Measure this gateway and the peers; one that fails is left out from then on, and said.

    Ctrl-C ends it early and keeps what was measured. Raises processes.StartError, PeerError or
    closed_loop.LoadError where this gateway itself fails.
    """
    options = [f"--peer={peer.name}" for peer in environments]
    options += [f"--rounds={rounds}", f"--seconds={seconds:g}"]
    options.append(f"--concurrency={','.join(map(str, concurrency))}")
    found = Results(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["python", "-m", "perf.studies.peers", *options]),
        machine=machine.facts(),
        settings=processes.settings(),
    )
    golden: Actions = []
    systems: list[Peer | None] = [None, *environments]
    try:
        for turn in range(rounds):
            first = turn % len(systems)
            for peer in systems[first:] + systems[:first]:
                say(f"round {turn + 1} of {rounds}: {peer.name if peer else OURS}")
                try:
                    with _running(peer, environments) as target:
                        seen = _actions(target.url)
                        golden = golden or seen  # ours, which is first in the first round
                        _compare(seen, golden)
                        closed_loop.run(target, max(concurrency), WARM_S)
                        for connections in concurrency:
                            one = closed_loop.run(target, connections, seconds)
                            if one.failed:
                                failed = f"{connections} connections: requests failed: {one.errors}"
                                raise closed_loop.LoadError(failed)
                            found.measurements.append(one)
                            say(
                                f"  {connections} connections: {one.requests_per_s:,.0f}/s, "
                                f"p50 {one.latency_ms.p50:.2f} ms, p99 {one.latency_ms.p99:.2f} ms"
                            )
                except (PeerError, closed_loop.LoadError) as error:
                    if peer is None:
                        raise
                    systems.remove(peer)
                    found.left_out.append(f"{peer.name}: {error}")
                    say(found.left_out[-1])
    except KeyboardInterrupt:
        found.interrupted = True
    return found


@contextmanager
def _running(peer: Peer | None, environments: Mapping[Peer, Path]) -> Iterator[Target]:
    if peer is None:
        with processes.gateway(**processes.ALONE) as (url, _):
            yield Target(url, OURS, VERSION)
    else:
        form = "torchscript" if "torchscript" in peer.model else "onnx"
        with running(peer, environments[peer]) as url:
            yield Target(url, peer.name, VERSION, form)


def _actions(url: str) -> Actions:
    answer = httpx.post(f"{url}/predict", json=body(GOLDEN_ROWS), timeout=30, trust_env=False)
    try:
        return msgspec.convert(answer.json()["actions"], Actions)
    except (ValueError, KeyError, TypeError, msgspec.ValidationError):
        said = f"{answer.status_code}: {answer.text[:200]}"
        raise PeerError(f"its answer is not the JSON of /predict: {said}") from None


def _compare(actions: Actions, golden: Actions) -> None:
    same = len(actions) == len(golden) and all(
        one.keys() == other.keys()
        and all(abs(one[part] - other[part]) <= TOLERANCE for part in other)
        for one, other in zip(actions, golden, strict=True)
    )
    if not same:
        raise PeerError(f"it answers {actions}, and this gateway {golden}")


def keep(results: Results, folder: Path) -> str:
    """Write results, table and chart into a folder; gives the Markdown."""
    text = markdown(results)
    results.save(folder / "peers.json")
    (folder / "peers.md").write_text(text)
    if (picture := chart.peers(results)) is not None:
        drawing.save(picture, folder / "peers.png")
    return text


def table(results: Results) -> list[str]:
    """Give the lines of a Markdown table: medians, ranges, and ratios to this gateway."""
    found: dict[str, dict[int, list[Measurement]]] = {}
    for one in results.measurements:
        found.setdefault(one.system, {}).setdefault(one.concurrency, []).append(one)
    if OURS not in found:
        return ["Nothing was measured."]
    failed = dict(line.replace("|", "/").split(": ", 1) for line in results.left_out)
    low, high = min(found[OURS]), max(found[OURS])
    busy = f"{high} connection{'s' if high > 1 else ''}"
    columns: list[tuple[str, int, Callable[[Measurement], float]]] = [
        (f"requests/s, {busy}", high, lambda one: one.requests_per_s),
        (f"p50 ms, {busy}", high, _p50),
        (f"p99 ms, {busy}", high, lambda one: one.latency_ms.p99),
    ]
    if low < high:
        few = f"{low} connection{'s' if low > 1 else ''}"
        columns.append((f"p50 ms, {few}", low, _p50))
    lines = [
        "| system | " + " | ".join(f"{title} | ratio" for title, _, _ in columns) + " |",
        "|---" * (1 + 2 * len(columns)) + "|",
    ]
    for name in [OURS, *(name for name in PEERS if name in found and name not in failed)]:
        cells = [_title(name)]
        for _, connections, figure in columns:
            values = [figure(one) for one in found[name][connections]]
            ours = [figure(one) for one in found[OURS][connections]]
            ratios = [a / b for a, b in zip(values, ours, strict=False)]
            cells += [spread(values), f"{statistics.median(ratios):.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        f"| {_title(name)} | not measured: {reason} |" + " |" * (2 * len(columns) - 1)
        for name, reason in failed.items()
    ]
    return lines


def _p50(one: Measurement) -> float:
    return one.latency_ms.p50


def _title(name: str) -> str:
    if name in PEERS:
        return f"{name} ({PEERS[name].requirements[0]})"
    return f"**{name}**" if name == OURS else name


def spread(values: Sequence[float]) -> str:
    """Give median and range."""
    digits = 0 if statistics.median(values) >= 100 else 2
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def markdown(results: Results) -> str:
    """Give the section of a page: the command, the machine and the table."""
    tools = sorted({one.tool for one in results.measurements})
    lines = [
        f"Command: `{results.command}`. Closed loop, {' and '.join(tools)} on the same "
        f"{os.cpu_count()} cores. Medians of the rounds, ranges in brackets; a ratio is the median "
        f"of the rounds' ratios to this gateway. {results.machine}.",
        "",
        *table(results),
    ]
    return "\n".join(lines) + "\n"
