"""Gateways in front of a stand-in, in front of nothing, and of one's own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.gateway.processes import gateway_process, held_port
from tests.gateway.stand_in import StandIn


@pytest.fixture(scope="session")
def _stand_in_and_gateway() -> Iterator[tuple[StandIn, str]]:
    stand_in = StandIn()
    stand_in.start()
    with gateway_process(TRITON_URL=stand_in.url, REQUEST_TIMEOUT_MS="400") as url:
        yield stand_in, url
    stand_in.stop()


@pytest.fixture
def stand_in(_stand_in_and_gateway: tuple[StandIn, str]) -> Iterator[StandIn]:
    """The stand-in behind `stand_in_gateway`, well-behaved again after each test."""
    stand_in, _ = _stand_in_and_gateway
    stand_in.calls.clear()
    stand_in.go.clear()
    yield stand_in
    stand_in.mode = "ok"
    stand_in.go.set()


@pytest.fixture(scope="session")
def stand_in_gateway(_stand_in_and_gateway: tuple[StandIn, str]) -> str:
    """URL of a gateway in front of the stand-in, with a deadline of 400 ms."""
    return _stand_in_and_gateway[1]


@pytest.fixture(scope="session")
def lone_gateway() -> Iterator[str]:
    """URL of a gateway whose Triton is away."""
    away = f"http://127.0.0.1:{held_port()}"
    with gateway_process("/livez", TRITON_URL=away, MAX_BODY_BYTES="2000") as url:
        yield url


@pytest.fixture
def run_gateway() -> Iterator[Callable[..., str]]:
    """Start gateways of one's own; they end with the test."""
    with ExitStack() as stack:
        yield lambda *wait_for, **environment: stack.enter_context(
            gateway_process(*wait_for, **environment)
        )
