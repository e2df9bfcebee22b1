"""Python's HTTP clients in a process of their own.

`python -m perf.studies.request_forms.python_clients NAME URL CALLERS SECONDS` writes a `Saw` as
JSON. Each caller has a client of its own, as a vehicle has, and asks again when it has its answer:
a thread, or for asyncio a task.
"""

from __future__ import annotations

import asyncio
import collections
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

import msgspec

from perf.load.generator import Saw
from perf.load.request_forms import REQUEST

OBSERVATIONS = REQUEST["observations"]

Ask = Callable[[], str]
AsyncAsk = Callable[[], Awaitable[str]]
"""Sends one request, and gives the status of its answer."""


def carlarl_client(url: str) -> Ask:
    """Use `carlarl-client`, without its retries, which would hide what failed."""
    from carlarl_client import PolicyClient, PolicyError

    client = PolicyClient(url, retries=0, timeout=10)

    def ask() -> str:
        try:
            client.predict(OBSERVATIONS, deterministic=True)
        except PolicyError as error:
            return type(error).__name__
        return "200"

    return ask


def requests(url: str) -> Ask:
    """Use a session of `requests`."""
    import requests

    session = requests.Session()
    return lambda: str(session.post(f"{url}/predict", json=REQUEST).status_code)


def carlarl_client_async(url: str, end: AsyncExitStack) -> AsyncAsk:
    """Use the asyncio twin of `carlarl-client`, without retries."""
    from carlarl_client import AsyncPolicyClient, PolicyError

    client = AsyncPolicyClient(url, retries=0, timeout=10)
    end.push_async_callback(client.aclose)

    async def ask() -> str:
        try:
            await client.predict(OBSERVATIONS, deterministic=True)
        except PolicyError as error:
            return type(error).__name__
        return "200"

    return ask


def aiohttp(url: str, end: AsyncExitStack) -> AsyncAsk:
    """Use a session of `aiohttp`."""
    import aiohttp

    session = aiohttp.ClientSession()
    end.push_async_callback(session.close)

    async def ask() -> str:
        async with session.post(f"{url}/predict", json=REQUEST) as answer:
            await answer.read()
            return str(answer.status)

    return ask


IN_THREADS = {"carlarl_client": carlarl_client, "requests": requests}
IN_TASKS = {"carlarl_client_async": carlarl_client_async, "aiohttp": aiohttp}


class Watch:
    """The time that callers have, and what they got."""

    def __init__(self, seconds: float) -> None:
        """Begin now."""
        self._began, self._seconds = time.perf_counter(), seconds
        self._latencies: list[float] = []
        self._statuses = collections.Counter[str]()

    def thread(self, ask: Ask) -> None:
        """Ask again and again."""
        while (sent := time.perf_counter()) < self._began + self._seconds:
            self._add(sent, ask())

    async def task(self, ask: AsyncAsk) -> None:
        """Ask again and again."""
        while (sent := time.perf_counter()) < self._began + self._seconds:
            self._add(sent, await ask())

    def _add(self, sent: float, status: str) -> None:
        self._latencies.append(time.perf_counter() - sent)
        self._statuses[status] += 1

    def saw(self) -> Saw:
        """End now."""
        return Saw.of(self._latencies, time.perf_counter() - self._began, self._statuses)


async def main(name: str, url: str, callers: int, seconds: float) -> Saw:
    """Drive a client."""
    async with AsyncExitStack() as end:
        if name in IN_TASKS:
            tasks = [IN_TASKS[name](url, end) for _ in range(callers)]
            watch = Watch(seconds)
            await asyncio.gather(*map(watch.task, tasks))
        else:
            asks = [IN_THREADS[name](url) for _ in range(callers)]
            watch = Watch(seconds)
            with ThreadPoolExecutor(callers) as threads:
                list(threads.map(watch.thread, asks))
        return watch.saw()


if __name__ == "__main__":
    name, url, callers, seconds = sys.argv[1:]
    came = asyncio.run(main(name, url, int(callers), float(seconds)))
    sys.stdout.buffer.write(msgspec.json.encode(came))
