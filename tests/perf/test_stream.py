"""The comparison of `/stream` with `/predict` on the running stack."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from perf.load.generator import LoadError
from perf.studies.stream import WAYS, Fleet, measure, table
from tests.gateway.processes import free_port, gateway_process
from tests.stack import Stack


@pytest.fixture(scope="module")
def lone_gateway() -> Iterator[str]:
    """URL of a gateway whose Triton is away."""
    with gateway_process("/livez", TRITON_URL=f"http://127.0.0.1:{free_port()}") as url:
        yield url


def test_every_way_is_measured(stack: Stack) -> None:
    found = {}
    for way in WAYS:
        one = measure(stack.gateway_url, stack.process.pid, way, 3, 20.0, 1.0)
        assert 0.0 < one.p50 <= one.p99
        assert one.generator > 0.0
        found[3, way] = [one, one]
    assert [row[1] for row in table(found).rows] == [f"`{way}`" for way in WAYS]


@pytest.mark.parametrize("way", WAYS)
def test_no_step_is_lost(stack: Stack, way: str) -> None:
    fleet = Fleet(stack.gateway_url, 4, 50.0, 0.497)
    asyncio.run(fleet.drive(way))
    assert len(fleet.latencies) + fleet.skipped == 4 * 25


@pytest.mark.parametrize("way", WAYS)
def test_a_failure_is_one(lone_gateway: str, way: str) -> None:
    with pytest.raises(LoadError, match="SERVICE_UNAVAILABLE"):
        asyncio.run(Fleet(lone_gateway, 1, 20.0, 0.2).drive(way))
