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
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

import msgspec

from perf.load.generator import Saw
from perf.load.request_forms import REQUEST

OBSERVATIONS = REQUEST["observations"]

Ask = Callable[[], str]
AsyncAsk = Callable[[], Awaitable[str]]
"""Sends one request, and gives the status of its answer."""


def carlarl_client(url: str, end: AsyncExitStack) -> Ask:
    """Use `carlarl-client`, without its retries, which would hide what failed."""
    from carlarl_client import PolicyClient, PolicyError

    client = PolicyClient(url, retries=0, timeout=10)
    end.callback(client.close)

    def ask() -> str:
        try:
            client.predict(OBSERVATIONS, deterministic=True)
        except PolicyError as error:
            return type(error).__name__
        return "200"

    return ask


def requests(url: str, end: AsyncExitStack) -> Ask:
    """Use a session of `requests`."""
    import requests

    session = end.enter_context(requests.Session())
    return lambda: str(session.post(f"{url}/predict", json=REQUEST).status_code)


async def carlarl_client_async(url: str, end: AsyncExitStack) -> AsyncAsk:
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


async def aiohttp(url: str, end: AsyncExitStack) -> AsyncAsk:
    """Use a session of `aiohttp`."""
    import aiohttp

    session = await end.enter_async_context(aiohttp.ClientSession())

    async def ask() -> str:
        async with session.post(f"{url}/predict", json=REQUEST) as answer:
            await answer.read()
            return str(answer.status)

    return ask


IN_THREADS = {"carlarl_client": carlarl_client, "requests": requests}
IN_TASKS = {"carlarl_client_async": carlarl_client_async, "aiohttp": aiohttp}


async def main(name: str, url: str, callers: int, seconds: float) -> Saw:
    """Drive a client."""
    latencies: list[float] = []
    statuses = collections.Counter[str]()

    def left() -> Iterator[None]:
        """Go on until the time is over, and note how long each turn took."""
        while (sent := time.perf_counter()) < began + seconds:
            yield
            latencies.append(time.perf_counter() - sent)

    def thread(ask: Ask) -> None:
        for _ in left():
            statuses[ask()] += 1

    async def task(ask: AsyncAsk) -> None:
        for _ in left():
            statuses[await ask()] += 1

    async with AsyncExitStack() as end:
        if name in IN_TASKS:
            tasks = [await IN_TASKS[name](url, end) for _ in range(callers)]
            began = time.perf_counter()
            await asyncio.gather(*map(task, tasks))
        else:
            asks = [IN_THREADS[name](url, end) for _ in range(callers)]
            began = time.perf_counter()
            with ThreadPoolExecutor(callers) as threads:
                list(threads.map(thread, asks))
        return Saw.of(latencies, time.perf_counter() - began, statuses)


if __name__ == "__main__":
    name, url, callers, seconds = sys.argv[1:]
    came = asyncio.run(main(name, url, int(callers), float(seconds)))
    sys.stdout.buffer.write(msgspec.json.encode(came))
