"""`python -m perf.studies.sessions`: what the memory of a policy costs.

64 sessions of an LSTM of 256, against the same network without a memory, in turns. Over `/predict`
each request brings its state as a token and takes the next one; over `/stream` the gateway keeps
it, and each vehicle sends its next step when it has its answer.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import httpx
from websockets.asyncio.client import connect

from perf.bench.command import Command, heading, say
from perf.bench.tables import Table, spread
from perf.load import closed_loop, processes
from perf.load.generator import LoadError
from perf.load.observations import body
from perf.load.processes import ROOT, Served
from perf.studies import usage

VERSION = "v1.0.0"
HIDDEN, SESSIONS = 256, 64
MANY = 1000
"""Sessions that are open for the figure of memory."""
JSON = [("Content-Type", "application/json")]

_SPEC = """
observation_space:
  type: Dict
  subspaces:
    speed: {type: Box, dtype: float32, shape: [], low: 0, high: 200}
    steering: {type: Box, dtype: float32, shape: [], low: -1, high: 1}
    sensors: {type: Box, dtype: float32, shape: [5], low: -1000, high: 1000}
action_space: {type: Box, dtype: float32, shape: [3], low: [0, 0, -1], high: [1, 1, 1]}
control: {layout: [throttle, brake, steer]}
distribution: {noise: none}
"""
_LEAF = f"{{dtype: float32, shape: [1, {HIDDEN}]}}"
_STATE = f"state: {{h: {_LEAF}, c: {_LEAF}}}\n"


def _run(*words: object) -> None:
    command = [sys.executable, "-m", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise LoadError((done.stderr or done.stdout).strip())


@contextmanager
def served(*, remembers: bool) -> Iterator[Served]:
    """Run a gateway with `examples.lstm`, with its memory or without."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program, spec = folder / "program.pt", folder / "spec.yaml"
        spec.write_text(_SPEC + (_STATE if remembers else ""))
        _run("examples.lstm", HIDDEN, program, *([] if remembers else ["forgetful"]))
        where = ["--artifacts", folder / "artifacts"]
        given = ["--version", VERSION, "--spec", spec]
        _run("carlarl", "import-torchscript", program, *given, *where)
        _run("carlarl", "export", "--formats", "onnx", "--repository", folder / "models", *where)
        variables = processes.ALONE | {"MODEL_REPOSITORY": str(folder / "models")}
        with processes.gateway(**variables) as running:
            yield running


def predicted(url: str, seconds: float) -> float:
    """Return the requests a second of 64 connections, each with a state where there is one."""
    asked = body()
    answer = httpx.post(f"{url}/predict", json=asked, trust_env=False)
    if answer.status_code != 200:
        raise LoadError(f"{url} answers {answer.status_code}: {answer.text[:200]}")
    if states := answer.json().get("states"):
        asked |= {"states": states}
    saw = closed_loop.wrk(url, JSON, json.dumps(asked).encode(), SESSIONS, seconds)
    if saw.errors:
        raise LoadError(f"{url}: requests failed: {saw.errors}")
    return saw.per_s


async def _steps(url: str, seconds: float) -> float:
    (observation,) = body()["observations"]
    address, end = f"ws{url.removeprefix('http')}/stream", time.perf_counter() + seconds

    async def vehicle() -> int:
        step = 0
        async with connect(address, compression=None, proxy=None) as connection:
            while time.perf_counter() < end:
                step += 1
                frame = {"stepId": step, "observation": observation, "deterministic": True}
                await connection.send(json.dumps(frame))
                if "action" not in (said := json.loads(await connection.recv())):
                    raise LoadError(f"{url}: a step failed: {said}")
        return step

    return sum(await asyncio.gather(*(vehicle() for _ in range(SESSIONS)))) / seconds


async def _open(url: str, pid: int) -> float:
    """Return the kilobytes of the gateway for each of `MANY` sessions that are open."""
    (observation,) = body()["observations"]
    frame = json.dumps({"stepId": 1, "observation": observation, "deterministic": True})
    address = f"ws{url.removeprefix('http')}/stream"
    before = usage.sample(pid, 0, 0).gateway
    each = [await connect(address, compression=None, proxy=None) for _ in range(MANY)]
    for one in each:
        await one.send(frame)
        await one.recv()
    after = usage.sample(pid, 0, 0).gateway
    for one in each:
        await one.close()
    return 1000 * (after - before) / MANY


@click.command(cls=Command)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(1))
def main(rounds: int, seconds: float) -> None:
    """Measure both policies in turns, and write Markdown."""
    click.echo(heading("perf.studies.sessions", rounds=rounds, seconds=seconds))
    table = Table(["64 sessions", "with memory, /s", "without, /s", "ratio of a pair"])
    with served(remembers=True) as one, served(remembers=False) as other:
        urls = one.url, other.url
        ways: dict[str, Callable[[str], float]] = {
            "`/predict`": lambda url: predicted(url, seconds),
            "`/stream`": lambda url: asyncio.run(_steps(url, seconds)),
        }
        for name, measure in ways.items():
            for url in urls:  # warm
                measure(url)
            pairs = []
            for turn in range(rounds):
                pairs.append([measure(url) for url in urls])
                say(f"round {turn + 1}: {name}: {pairs[-1][0]:,.0f}/s, {pairs[-1][1]:,.0f}/s")
            ratios = [first / second for first, second in pairs]
            sides = [list(side) for side in zip(*pairs, strict=True)]
            table.rows.append([name, *map(spread, sides), spread(ratios)])
        click.echo(table.markdown())
        kept = [asyncio.run(_open(served.url, served.pid)) for served in (one, other)]
    click.echo(
        f"Each of {MANY} open streams takes {kept[0]:.1f} kB of the gateway's memory, and "
        f"{kept[1]:.1f} kB without a state."
    )


if __name__ == "__main__":
    main()
