"""Vehicles at 20 Hz, each of whose steps has a right action of its own that is known beforehand."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import aiohttp
import numpy as np

from converters.artifact import artifact
from converters.export import parity
from tests.stack import ROOT

PERIOD_S = 0.05
PATIENCE_S = 5.0
STATUSES = {"RESOURCE_EXHAUSTED": 429, "INFERENCE_ERROR": 502}
STATUSES |= {"SERVICE_UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504}
CONTROLS = ("throttle", "brake", "steer")


@cache
def steps(version: str = "v0.2.0") -> list[tuple[dict[str, Any], np.ndarray]]:
    """Observations whose actions all differ, each with its action by the trained policy."""
    source = artifact.load(ROOT / "artifacts" / version)
    low, high = [0, -1, 0, 0, 0, 0, 0], [120, 1, 1, 1, 1, 1, 1]
    seen = np.random.default_rng(0).uniform(low, high, (20_000, 7)).astype(np.float32)
    features = source.preprocessing.features(seen)
    actions = parity.actions(source, features, np.zeros((len(seen), 3), np.float32))
    _, first = np.unique(actions.round(3), axis=0, return_index=True)
    return [
        ({"speed": row[0], "steering": row[1], "sensors": row[2:]}, actions[index])
        for index, row in zip(first.tolist(), seen[first].tolist(), strict=True)
    ]


@dataclass
class Drive:
    """What became of the steps: how many got which status, and the wrong actions.

    Status 0 is no answer, 204 a step of a stream that a later one overtook.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    good: list[float] = field(default_factory=list)
    """When each right action came (time.monotonic)."""

    @property
    def last_good(self) -> float:
        return self.good[-1] if self.good else 0.0

    def longest_gap(self, since: float) -> float:
        """The most seconds without a right action, from `since` on."""
        times = [since, *(moment for moment in self.good if moment > since)]
        return max(later - earlier for earlier, later in itertools.pairwise(times))

    def take(self, right: np.ndarray, action: dict[str, float]) -> None:
        given = np.array([action[name] for name in CONTROLS])
        if np.abs(given - right).max() > parity.TOLERANCE:
            self.wrong.append(f"{given.tolist()} in the place of {right.tolist()}")
        else:
            self.good.append(time.monotonic())


@contextmanager
def driving(url: str, vehicles: int, *, streams: bool) -> Iterator[Drive]:
    """Let so many vehicles drive until the block ends, over `/stream` or over `/predict`."""
    drive, stop = Drive(), threading.Event()
    way = _stream if streams else _predict

    async def run() -> None:
        turn = itertools.cycle(steps())
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
            await asyncio.gather(*(way(session, turn, drive, stop) for _ in range(vehicles)))

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        yield drive
    finally:
        stop.set()
        thread.join()


async def _predict(session: Any, turn: Iterator[Any], drive: Drive, stop: threading.Event) -> None:
    while not stop.is_set():
        observation, right = next(turn)
        begun, status = time.monotonic(), 0
        try:
            body = {"observations": [observation], "deterministic": True}
            async with session.post("/predict", json=body) as answer:
                status, content = answer.status, await answer.json()
                if status == 200:
                    drive.take(right, content["actions"][0])
        except (aiohttp.ClientError, TimeoutError):
            status = 0
        drive.statuses[status] += 1
        await asyncio.sleep(max(0.0, begun + PERIOD_S - time.monotonic()))


async def _stream(session: Any, turn: Iterator[Any], drive: Drive, stop: threading.Event) -> None:
    """Send a step every period, whether or not the last one was answered."""
    asked: dict[int, np.ndarray] = {}
    async with session.ws_connect("/stream") as connection:

        async def listen() -> None:
            async for message in connection:
                content = json.loads(message.data)
                right = asked.pop(content["stepId"])
                if "action" in content:
                    drive.take(right, content["action"])
                status = 200 if "action" in content else 204
                if "error" in content:
                    status = STATUSES[content["error"]]
                drive.statuses[status] += 1

        listening = asyncio.create_task(listen())
        for step in itertools.count():
            if stop.is_set():
                break
            observation, asked[step] = next(turn)
            frame = {"stepId": step, "observation": observation, "deterministic": True}
            await connection.send_str(json.dumps(frame))
            await asyncio.sleep(PERIOD_S)
        listening.cancel()
