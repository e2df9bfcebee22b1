"""Gateways in front of a stand-in, in front of nothing, and of one's own; and a browser."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.browser import Browser, browser, program
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


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = program()
    if path is None:
        pytest.skip("the pages were not seen by a browser: apt-get install chromium")
    with browser(path) as running:
        yield running


@pytest.fixture
def page(chromium: Browser) -> Iterator[Browser]:
    """A browser whose page asks nobody but its own gateway, and never complains."""
    yield chromium
    origin = chromium.evaluate("location.host")
    asked = chromium.asked()
    assert len(asked) > 5
    assert {re.sub(r"^(http|ws)://([^/]+)/.*", r"\2", url) for url in asked} == {origin}
    texts = [json.dumps(one["params"]) for one in chromium.complaints()]
    # Chromium writes each answer that is an error, and each connection that failed.
    assert [one for one in texts if "Failed to load" not in one and "WebSocket" not in one] == []
    chromium.open("about:blank", 800)  # so that no car drives on
