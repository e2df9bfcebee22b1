"""A gateway whose connections are all taken, for five minutes: the service stays alive."""

from __future__ import annotations

import time

import pytest

from tests import page
from tests.carlarl.test_supervision import triton
from tests.gateway.processes import until
from tests.gateway.wire.test_full import MOST, SOON_S, driven, places, probed, steps
from tests.gateway.wire.wire import ask, request
from tests.stack import running_stack

pytestmark = pytest.mark.reliability

MINUTES = 5


def test_serve_stays_alive_with_a_full_gateway() -> None:
    """No start again is allowed: Triton and the command are the same processes at the end."""
    answered = refused = 0
    slowest = 0.0
    with running_stack(RESTART_TRIES="0", MAX_CONNECTIONS=str(MOST)) as service:
        before = triton(service)
        until(lambda: places(service.gateway_url) == MOST, 10)
        with driven(service.gateway_url, MOST) as vehicles:
            end = time.monotonic() + 60 * MINUTES
            while time.monotonic() < end:
                assert service.process.poll() is None, service.output()
                assert all(map(steps, vehicles))
                assert ask(service.gateway_url, request()).status == 503
                answered, refused = answered + MOST, refused + 1
                slowest = max(slowest, *probed(service.gateway_url, 8))
                time.sleep(0.2)
            assert triton(service) == before
    cells = [f"{MINUTES}", f"{MOST}", f"{answered:,}", f"{refused:,}", f"{1000 * slowest:.0f}", "0"]
    page.add("full", *cells)
    assert slowest < SOON_S
