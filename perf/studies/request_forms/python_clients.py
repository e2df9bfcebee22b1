"""Python's HTTP clients in a process of their own.

`python -m perf.studies.request_forms.python_clients NAME URL CALLERS SECONDS` writes an `Outcome`
as JSON. Each caller has a client of its own, as a vehicle has, and asks again when it has its
answer: a thread, or for asyncio a task.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from perf.load.request_forms import REQUEST
from perf.studies.request_forms.outcome import Outcome, outcome

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


def carlarl_client_async(url: str, end: contextlib.AsyncExitStack) -> AsyncAsk:
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


def aiohttp(url: str, end: contextlib.AsyncExitStack) -> AsyncAsk:
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


def in_threads(make: Callable[[str], Ask], url: str, callers: int, seconds: float) -> Outcome:
    """Let callers ask in threads."""
    asks = [make(url) for _ in range(callers)]
    latencies: list[float] = []
    answers = collections.Counter[str]()
    began = time.perf_counter()

    def loop(ask: Ask) -> None:
        while (sent := time.perf_counter()) < began + seconds:
            answers[ask()] += 1
            latencies.append(time.perf_counter() - sent)

    with ThreadPoolExecutor(callers) as threads:
        list(threads.map(loop, asks))
    return outcome(latencies, time.perf_counter() - began, dict(answers))


async def in_tasks(
    make: Callable[[str, contextlib.AsyncExitStack], AsyncAsk],
    url: str,
    callers: int,
    seconds: float,
) -> Outcome:
    """Let callers ask in tasks."""
    async with contextlib.AsyncExitStack() as end:
        asks = [make(url, end) for _ in range(callers)]
        latencies: list[float] = []
        answers = collections.Counter[str]()
        began = time.perf_counter()

        async def loop(ask: AsyncAsk) -> None:
            while (sent := time.perf_counter()) < began + seconds:
                answers[await ask()] += 1
                latencies.append(time.perf_counter() - sent)

        await asyncio.gather(*map(loop, asks))
        return outcome(latencies, time.perf_counter() - began, dict(answers))


def main(name: str, url: str, callers: int, seconds: float) -> None:
    """Drive a client, write what came of it."""
    if name in IN_THREADS:
        came = in_threads(IN_THREADS[name], url, callers, seconds)
    else:
        came = asyncio.run(in_tasks(IN_TASKS[name], url, callers, seconds))
    sys.stdout.buffer.write(msgspec.json.encode(came))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
