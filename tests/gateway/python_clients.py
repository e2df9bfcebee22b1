"""Python's HTTP clients in a process of their own.

`python -m tests.gateway.python_clients NAME URL CALLERS SECONDS` writes a `Saw` as
JSON. Each caller has a client of its own, as a vehicle has, and asks again when it has its answer:
a thread, or for asyncio a task. An exception of a client ends the program.
"""

from __future__ import annotations

import asyncio
import collections
import inspect
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

import msgspec

from perf.bench.request_forms import REQUEST
from perf.load.generator import Saw

OBSERVATIONS = REQUEST["observations"]


def saw(latencies_s: Iterable[float], seconds: float, statuses: dict[str, int]) -> Saw:
    """Sum up requests by their latencies and by the statuses of their answers."""
    counts = collections.Counter(max(1, round(one * 1e6)) for one in latencies_s)
    errors = {status: count for status, count in statuses.items() if count and status != "200"}
    good = statuses.get("200", 0)
    return Saw(seconds, answered=good, errors=errors, counts=sorted(counts.items()))


async def carlarl_client(url: str, end: AsyncExitStack) -> Callable[[], str]:
    """Use `carlarl-client`, without its retries, which would hide what failed."""
    from carlarl_client import PolicyClient

    client = PolicyClient(url, retries=0, timeout=10)
    end.callback(client.close)
    return lambda: "200" if client.predict(OBSERVATIONS, deterministic=True) else ""


async def carlarl_client_async(url: str, end: AsyncExitStack) -> Callable[[], Any]:
    """Use the asyncio twin of `carlarl-client`, without retries."""
    from carlarl_client import AsyncPolicyClient

    client = AsyncPolicyClient(url, retries=0, timeout=10)
    end.push_async_callback(client.aclose)

    async def ask() -> str:
        await client.predict(OBSERVATIONS, deterministic=True)
        return "200"

    return ask


async def requests(url: str, end: AsyncExitStack) -> Callable[[], str]:
    """Use a session of `requests`."""
    import requests

    session = end.enter_context(requests.Session())
    return lambda: str(session.post(f"{url}/predict", json=REQUEST).status_code)


async def aiohttp(url: str, end: AsyncExitStack) -> Callable[[], Any]:
    """Use a session of `aiohttp`."""
    import aiohttp

    session = await end.enter_async_context(aiohttp.ClientSession())

    async def ask() -> str:
        async with session.post(f"{url}/predict", json=REQUEST) as answer:
            await answer.read()
            return str(answer.status)

    return ask


CLIENTS = (carlarl_client, carlarl_client_async, requests, aiohttp)


async def main(name: str, url: str, callers: int, seconds: float) -> Saw:
    """Drive a client: each caller sends one request, or awaits one, after the other."""
    make = {one.__name__: one for one in CLIENTS}[name]
    latencies: list[float] = []
    statuses = collections.Counter[str]()
    clock = time.perf_counter

    def thread(ask: Callable[[], str]) -> None:
        while (sent := clock()) < began + seconds:
            statuses[ask()] += 1
            latencies.append(clock() - sent)

    async def task(ask: Callable[[], Any]) -> None:
        while (sent := clock()) < began + seconds:
            statuses[await ask()] += 1
            latencies.append(clock() - sent)

    async with AsyncExitStack() as end:
        asks = [await make(url, end) for _ in range(callers)]
        began = clock()
        if inspect.iscoroutinefunction(asks[0]):
            await asyncio.gather(*map(task, asks))
        else:
            with ThreadPoolExecutor(callers) as threads:
                list(threads.map(thread, asks))
        return saw(latencies, clock() - began, statuses)


if __name__ == "__main__":
    name, url, callers, seconds = sys.argv[1:]
    came = asyncio.run(main(name, url, int(callers), float(seconds)))
    sys.stdout.buffer.write(msgspec.json.encode(came))
