"""Real measurements that several tests look at."""

from __future__ import annotations

import itertools

import pytest

from perf.bench.results import MemorySample
from perf.studies import memory
from tests.stack import Stack


@pytest.fixture(scope="session")
def watched(stack: Stack) -> list[MemorySample]:
    """Six samples of the stack's memory under load."""
    samples = memory.watch(stack.gateway_url, stack.process.pid, requests=10**9, warm=0)
    return list(itertools.islice(samples, 6))
