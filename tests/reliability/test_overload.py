"""More comes than can be answered: what is accepted is answered in time, and nearly as much.

The service has one core and the load generator the others, so that neither takes from the other
what the ratio is about. Best rate and overload take turns, and what other programs took of the
service's core is taken into account.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import msgspec
import psutil
import pytest

from gateway.security.backoff import LONGEST_S
from perf.load import generator
from perf.load.generator import Load, Saw
from perf.load.observations import body
from perf.load.target import Target
from tests import page
from tests.carlarl.test_supervision import gateway
from tests.gateway.processes import check_envelope, predict
from tests.stack import Stack, running_stack

pytestmark = pytest.mark.reliability

ROUNDS = 5
SECONDS = 2.0
CALLERS = 64
"""Connections with which the rate is best."""
SLACK_MS = 1000.0
"""What a busy machine may add to the longest latency."""


@contextmanager
def cores(first: int, last: int | None) -> Iterator[None]:
    """Have what is started meanwhile run on some of the cores, in the order of their numbers."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[first:last] or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@pytest.fixture(scope="module")
def service() -> Iterator[Stack]:
    with cores(0, 1), running_stack() as stack, cores(1, None):
        yield stack


def load(
    stack: Stack, rows: int, connections: int, rate: float | None = None, deadline_ms: int = 1000
) -> Load:
    """So many connections that never rest, or at a rate, each with one request at a time."""
    made = Target(stack.gateway_url).load(body(rows), connections, SECONDS, rate)
    head, _, content = made.request.partition(b"\r\n\r\n")
    head += b"\r\nX-Deadline-Ms: %d\r\n\r\n" % deadline_ms
    return msgspec.structs.replace(made, request=head + content, patient=False)


def run(stack: Stack, asked: Load) -> tuple[Saw, float]:
    """Make a load; give what it saw, and good answers a second of a core that nobody else uses."""
    root = psutil.Process(stack.process.pid)
    core = root.cpu_affinity()[0]

    def read() -> tuple[float, float, float]:
        used = sum(sum(one.cpu_times()[:2]) for one in root.children(recursive=True))
        return time.monotonic(), psutil.cpu_times(percpu=True)[core].idle, used

    before = read()
    saw = generator.run(asked)
    took, idle, used = (now - then for now, then in zip(read(), before, strict=True))
    return saw, saw.in_time / SECONDS / min(1.0, (idle + used) / took)


def p99_ms(saw: Saw) -> float:
    left = saw.answered * 0.99
    for microseconds, count in saw.counts:
        left -= count
        if left <= 0:
            return microseconds / 1000
    raise AssertionError("nothing was answered")


def ask_meanwhile(stack: Stack, over: Callable[[], bool]) -> tuple[Counter[int], float]:
    """Ask in a hurry, and probe as Kubernetes does, on a new connection each time.

    Gives how often the first was answered how, with what is refused checked, and the slowest probe
    in milliseconds.
    """
    told: Counter[int] = Counter()
    slowest = 0.0
    headers = {"X-Deadline-Ms": "10"}
    with httpx.Client(base_url=stack.gateway_url, headers=headers, timeout=30) as client:
        while not over():
            answer = client.post("/predict", json=body())
            told[answer.status_code] += 1
            if answer.status_code == 429:
                check_envelope(answer, 429, "RESOURCE_EXHAUSTED")
                assert answer.headers["retry-after"] == "1"
            began = time.perf_counter()
            assert httpx.get(stack.gateway_url + "/livez", timeout=30).status_code == 200
            slowest = max(slowest, (time.perf_counter() - began) * 1000)
            time.sleep(0.02)
    return told, slowest


CASES = {
    # observations in a request, connections, deadline_ms, times the best rate, least share of it
    "three times the best rate, 16 observations a request": (16, 768, 1000, 3.0, 0.8),
    "three times the best rate, 64 observations a request": (64, 512, 100, 3.0, 0.8),
    "2,000 connections that never rest, 1 observation a request": (1, 2000, 50, None, 0.5),
}


@pytest.mark.parametrize("what", CASES)
def test_overload(service: Stack, what: str) -> None:
    rows, connections, deadline_ms, times, least = CASES[what]
    process = gateway(service)
    codes: Counter[str] = Counter()
    told: Counter[int] = Counter()
    peaks, rates, shares, tails, probes = [], [], [], [], []
    before = 0
    for turn in range(-1, ROUNDS):  # the first takes memory for so many connections
        _, peak = run(service, load(service, rows, CALLERS))
        rate = None if times is None else times * peak
        asked = load(service, rows, connections, rate, deadline_ms)
        with ThreadPoolExecutor() as pool:
            running = pool.submit(run, service, asked)
            meanwhile, probe = ask_meanwhile(service, running.done)
        saw, good = running.result()
        if turn < 0:
            before = process.memory_info().rss
            continue
        if rate is not None:
            assert saw.due / SECONDS >= 0.9 * rate, "the generator fell behind"
        peaks.append(peak)
        rates.append(good)
        shares.append(good / peak)
        tails.append(p99_ms(saw))
        probes.append(probe)
        told += meanwhile
        codes.update(saw.errors)
    grown = (process.memory_info().rss - before) / 2**20
    cells = [what, f"{deadline_ms}", f"{statistics.median(peaks):,.0f}"]
    cells += [f"{statistics.median(rates):,.0f}", f"{statistics.median(shares):.0%}"]
    cells += [f"{min(shares):.0%}–{max(shares):.0%}", f"{codes['429']:,}", f"{codes['504']:,}"]
    cells += [f"{statistics.median(tails):.0f}", f"{max(probes):.0f}", f"{grown:+.1f}"]
    print(page.add("overload", *cells))
    assert set(codes) <= {"429", "504"}, codes
    assert codes["429"]
    assert told[429], told
    assert statistics.median(shares) > least
    assert statistics.median(tails) < LONGEST_S * 1000 + deadline_ms + SLACK_MS
    # What Kubernetes allows a probe, unless it stands behind two thousand that connect at once.
    assert statistics.median(probes) < (3000 if times is None else 1000)
    assert grown < 50
    assert predict(service.gateway_url).status_code == 200
