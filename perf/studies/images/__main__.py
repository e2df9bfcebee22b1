"""Measure the parts that are asked for, and write Markdown."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import click
import httpx
import msgspec
import numpy as np
import psutil
from PIL import Image

from perf.bench.command import Command, heading, say
from perf.bench.request_forms import JSON, MSGPACK, in_turns
from perf.bench.tables import Table, spread
from perf.load import closed_loop, processes
from perf.load.generator import LoadError, Saw
from perf.load.processes import Served
from perf.studies import memory, usage
from perf.studies.images import policy
from perf.studies.images.policy import NUMBER, VERSION, Shape, picture
from perf.studies.images.vehicles import drive

STACK, CAMERA = (84, 84, 4), (96, 96, 3)
COUNTS = (32, 1)
PROBE_S = 0.005
Body = tuple[str, bytes]
"""Content type and content of a request."""


def body(pixels: Any, media_type: str, png: bool = False, rows: int = 1) -> Body:
    """Return a request of so many times the same picture."""
    content: Any = np.ascontiguousarray(pixels).tobytes()
    if png:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "png")
        content = file.getvalue()
    content = base64.b64encode(content).decode() if media_type == JSON else content
    asked = {"observations": [{"png": content} if png else content] * rows, "deterministic": True}
    encode = msgspec.json.encode if media_type == JSON else msgspec.msgpack.encode
    return media_type, encode(asked)


def forms(shape: Shape) -> dict[str, Body]:
    """Return the requests of one picture, by name."""
    pixels = picture(shape)
    each = [(kind, png) for png in (False, True)[: 1 + (shape[2] == 3)] for kind in (JSON, MSGPACK)]
    return {
        f"{'×'.join(map(str, shape))} {'PNG' if png else 'raw'}, {kind.partition('/')[2]}": body(
            pixels, kind, png
        )
        for kind, png in each
    }


@contextmanager
def served(shape: Shape) -> Iterator[tuple[Served, str]]:
    """Run the gateway and the plain alternative with the same ONNX file; gives both."""
    (port,) = processes.free_ports(1)
    plain = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        repository = policy.export(shape, Path(folder))
        variables = processes.ALONE | {"MODEL_REPOSITORY": str(repository)}
        model = repository / f"policy_onnx-{VERSION}" / NUMBER / "model.onnx"
        command = [sys.executable, "-m", "uvicorn", "perf.studies.images.peer:app"]
        command += [f"--workers={os.cpu_count()}", f"--port={port}", "--no-access-log"]
        command += ["--loop=uvloop", "--http=httptools"]
        files = {"MODEL": str(model), "SHAPE": ",".join(map(str, shape))}
        with (
            processes.gateway(**variables) as ours,
            processes.server(
                command, lambda: processes.answers(f"{plain}/openapi.json"), os.environ | files
            ),
        ):
            yield ours, plain


def ask(url: str, sent: Body) -> list[dict[str, float]]:
    """Return the actions that a server answers. Raises LoadError."""
    headers = {"Content-Type": sent[0]}
    answer = httpx.post(f"{url}/predict", content=sent[1], headers=headers, trust_env=False)
    if answer.status_code != 200:
        raise LoadError(f"{url} answers {answer.status_code}: {answer.text[:200]}")
    decode = msgspec.json.decode if sent[0] == JSON else msgspec.msgpack.decode
    actions: list[dict[str, float]] = decode(answer.content)["actions"]
    return actions


def load(url: str, sent: Body, connections: int, seconds: float) -> Saw:
    """Send one request again and again by `wrk`. Raises LoadError where one fails."""
    saw = closed_loop.wrk(url, [("Content-Type", sent[0])], sent[1], connections, seconds)
    if saw.errors:
        raise LoadError(f"{url}: requests failed: {saw.errors}")
    return saw


def predict(rounds: int, seconds: float) -> Table:
    """Measure each form against the plain alternative, in turns."""
    table = Table(["image, form", "KB"])
    for what in ("requests/s, 32 connections", "p50 ms, 1 connection"):
        table.head = [*table.head, f"{what}: gateway", "plain alternative", "ratio of a pair"]
    for shape in (STACK, CAMERA):
        with served(shape) as (ours, plain):
            found: dict[str, dict[int, list[tuple[Saw, Saw]]]] = {}
            for turn, (name, sent) in in_turns(list(forms(shape).items()), rounds):
                urls = (ours.url, f"{plain}/msgpack" if sent[0] == MSGPACK else plain)
                if turn == 1:
                    _same(*(ask(url, sent) for url in urls))
                    found[name] = {count: [] for count in COUNTS}
                    for url in urls:  # warm
                        load(url, sent, max(COUNTS), 1.0)
                for count, pairs in found[name].items():
                    one, other = (load(url, sent, count, seconds) for url in urls)
                    pairs.append((one, other))
                    say(f"round {turn}: {name}, {count}: {one.per_s:,.0f}/s, {other.per_s:,.0f}/s")
            for name, sent in forms(shape).items():
                cells = [name, f"{len(sent[1]) / 1000:.1f}"]
                for count, figure in zip(COUNTS, ("per_s", "p50_ms"), strict=True):
                    sides = [
                        [float(getattr(saw, figure)) for saw in side]
                        for side in zip(*found[name][count], strict=True)
                    ]
                    ratios = [one / other for one, other in zip(*sides, strict=True)]
                    cells += map(spread, [*sides, ratios])
                table.rows.append(cells)
    return table


def _same(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> None:
    if any(abs(ours[0][name] - value) > 1e-5 for name, value in theirs[0].items()):
        raise LoadError(f"the plain alternative answers {theirs}, and the gateway {ours}")


def vehicles(seconds: float) -> Table:
    """Let 100 vehicles send a stack of four pictures ten times a second."""
    table = Table(["vehicles", "steps", "lost", "p50 ms", "p99 ms", "longest ms", "not answered"])
    with served(STACK) as (ours, _):
        pixels = picture(STACK).tobytes()
        asyncio.run(drive(ours.url, pixels, 100, 10, 2))  # warm
        seen = asyncio.run(drive(ours.url, pixels, 100, 10, seconds))
    p50, p99 = np.percentile(seen.latencies_ms, (50, 99))
    figures = [f"{ms:.1f}" for ms in (p50, p99, max(seen.latencies_ms))]
    others = ", ".join(f"{name}: {count}" for name, count in seen.others.items()) or "none"
    table.rows.append(["100, 10 Hz", f"{seen.due:,}", str(seen.lost), *figures, others])
    return table


def growth(images: int) -> str:
    """Watch the memory over so many images, in all forms one after the other."""
    samples, sent = [], 0
    with served(CAMERA) as (ours, _):
        began, each = time.monotonic(), list(forms(CAMERA).values())
        while sent < images * 1.2:
            for one in each:
                sent += load(ours.url, one, 32, 1.0).answered
            if sent > images * 0.2:
                samples.append(usage.sample(ours.pid, began, sent))
                say(f"{sent:,} images: {samples[-1]}")
    lines = [f"- {memory.judge(samples, part).text}." for part in memory.PARTS]
    return f"{sent:,} images of 96×96×3.\n\n" + "\n".join(lines) + "\n"


class Probe(Thread):
    """Asks `GET /healthz` again and again, with an eye on the gateway's processor time.

    That is what the event loop did before it came to the probe, and so an upper bound of how long
    it was held. The latency has also the time that the gateway waited for a core.
    """

    def __init__(self, served: Served) -> None:
        """Take the gateway."""
        super().__init__()
        self._served, self._over = served, Event()
        self.latencies_ms: list[float] = []
        self.held_ms: list[float] = []

    def run(self) -> None:
        """Ask until the end."""
        children = psutil.Process(self._served.pid).children()
        (gateway,) = (one.pid for one in children if one.cmdline()[1:3] == ["-m", "gateway"])
        clock = (~gateway << 3) | 2  # of the processor time of another process
        with httpx.Client(trust_env=False) as client:
            while not self._over.wait(PROBE_S):
                began, used = time.perf_counter(), time.clock_gettime(clock)
                client.get(f"{self._served.url}/healthz").raise_for_status()
                self.held_ms.append(1000 * (time.clock_gettime(clock) - used))
                self.latencies_ms.append(1000 * (time.perf_counter() - began))

    def __exit__(self, *_: object) -> None:
        """End."""
        self._over.set()
        self.join()

    def __enter__(self) -> Probe:
        """Begin."""
        self.start()
        return self


def held(seconds: float) -> Table:
    """Send the largest bodies that are taken, and see how long others wait for the event loop."""
    table = Table(["the largest body", "MB", "requests", "probes", "event loop held, longest ms"])
    table.head = [*table.head, "a probe's p99 ms", "longest ms"]
    for shape in (STACK, CAMERA):
        pixels = picture(shape)
        count = 262_144 // pixels.size
        lists = {"observations": [pixels.tolist()] * count, "deterministic": True}
        largest = {
            "raw, json, 256 images": body(pixels, JSON, rows=256),
            "raw, msgpack, 256 images": body(pixels, MSGPACK, rows=256),
            f"lists, json, {count} images": (JSON, json.dumps(lists).encode()),
        }
        if shape == CAMERA:
            largest["PNG, msgpack, 256 images"] = body(pixels, MSGPACK, True, 256)
        with served(shape) as (ours, _):
            for name, sent in {"none": (JSON, b""), **largest}.items():
                with Probe(ours) as probe:
                    answered = load(ours.url, sent, 2, seconds).answered if sent[1] else 0
                    time.sleep(0 if sent[1] else seconds)
                size = f"{len(sent[1]) / 1e6:.1f}"
                cells = [f"{'×'.join(map(str, shape))} {name}", size, str(answered)]
                cells.append(str(len(probe.held_ms)))
                p99 = statistics.quantiles(probe.latencies_ms, n=100)[-1]
                figures = (max(probe.held_ms), p99, max(probe.latencies_ms))
                table.rows.append([*cells, *(f"{ms:.1f}" for ms in figures)])
                say(" ".join(table.rows[-1]))
    return table


PARTS = ("predict", "vehicles", "memory", "loop")


@click.command(cls=Command)
@click.argument("parts", nargs=-1, type=click.Choice(PARTS))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=1.0, show_default=True, type=click.FloatRange(1))
@click.option("--images", default=100_000, show_default=True, type=click.IntRange(1000))
def main(parts: Sequence[str], rounds: int, seconds: float, images: int) -> None:
    """Measure all PARTS, or those named: predict, vehicles, memory, loop."""
    named = " ".join(["perf.studies.images", *parts])
    click.echo(heading(named, rounds=rounds, seconds=seconds, images=images))
    for part in parts or PARTS:
        if part == "predict":
            click.echo(predict(rounds, seconds).markdown())
        elif part == "vehicles":
            click.echo(vehicles(10 * seconds).markdown())
        elif part == "memory":
            click.echo(growth(images))
        else:
            click.echo(held(5 * seconds).markdown())


if __name__ == "__main__":
    main()
