"""The caller's own deadline; what is late is told, and never sent."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from gateway.inference.batcher import LEAST_CALL_S
from tests.gateway.processes import OBSERVATION, check_envelope, until
from tests.gateway.stand_in import StandIn

BODY = json.dumps({"observations": [OBSERVATION], "deterministic": True}).encode()


def ask(url: str, deadline: Any, path: str = "/predict") -> httpx.Response:
    head = {"Content-Type": "application/json", "X-Deadline-Ms": str(deadline)}
    body = BODY if path == "/predict" else b"{}"
    return httpx.post(url + path, content=body, headers=head, timeout=30)


def expired(url: str) -> float:
    lines = httpx.get(url + "/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith("carla_rl_expired_total ")]
    return float(line.split()[1])


@pytest.mark.parametrize("bad", ["0", "-5", "1.5", "soon", "", "9" * 10, "٣"])
def test_what_is_no_number_of_milliseconds(gateway_url: str, bad: str) -> None:
    head = {"Content-Type": "application/json", "X-Deadline-Ms": bad.encode()}
    answer = httpx.post(gateway_url + "/predict", content=BODY, headers=head)
    details = check_envelope(answer, 422, "VALIDATION_ERROR")
    assert [problem["field"] for problem in details["validation_errors"]] == ["X-Deadline-Ms"]


@pytest.mark.parametrize("path", ["/predict", "/warmup"])
def test_a_generous_one_changes_nothing(gateway_url: str, path: str) -> None:
    assert ask(gateway_url, 999_999_999, path).status_code == 200


def test_the_sooner_one_holds(stand_in: StandIn, run_gateway: Callable) -> None:
    """Triton hangs for three seconds; the caller's deadline, or the service's, passes before."""
    url = run_gateway(TRITON_URL=stand_in.url, REQUEST_TIMEOUT_MS="2000")
    stand_in.mode = "hang"
    for asked, least, most in ((300, 0.29, 1.9), (60_000, 1.99, 60)):
        answer = ask(url, asked)
        check_envelope(answer, 504, "DEADLINE_EXCEEDED")
        assert least <= float(answer.headers["x-process-time"]) < most


def test_late_in_the_queue_is_never_sent(stand_in: StandIn, run_gateway: Callable) -> None:
    """The one call there may be hangs; who waits behind it is told in time, and not sent after."""
    url = run_gateway(TRITON_URL=stand_in.url, CALLS_IN_FLIGHT="1", REQUEST_TIMEOUT_MS="20000")
    stand_in.mode = "hang"
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(ask, url, 19_000)
        until(lambda: len(stand_in.calls) == 1)
        late = [pool.submit(ask, url, 200) for _ in range(2)]
        for one in late:
            check_envelope(one.result(), 504, "DEADLINE_EXCEEDED")
        assert len(stand_in.calls) == 1
        stand_in.mode = "ok"
        assert first.result().status_code == 200
    assert ask(url, 19_000).status_code == 200
    assert len(stand_in.calls) == 2
    assert expired(url) == 2


def test_a_call_keeps_its_place_when_its_caller_stops_waiting(
    stand_in: StandIn, run_gateway: Callable
) -> None:
    """Triton goes on with it, so that impatient callers can't pile calls up there."""
    url = run_gateway(TRITON_URL=stand_in.url, CALLS_IN_FLIGHT="1", REQUEST_TIMEOUT_MS="20000")
    stand_in.mode = "hang"
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(url, 20), range(8)))
    took_s = time.monotonic() - began
    assert {answer.status_code for answer in answers} <= {429, 504}
    assert len(stand_in.calls) <= 1 + took_s / LEAST_CALL_S


def test_the_document_tells(gateway_url: str) -> None:
    document = httpx.get(gateway_url + "/openapi.json").json()
    for path in ("/predict", "/warmup"):
        parameter, echo = document["paths"][path]["post"]["parameters"]
        assert (parameter["name"], parameter["in"]) == ("X-Deadline-Ms", "header")
        assert (echo["name"], echo["in"]) == ("X-Carlarl-Echo", "header")
        assert parameter["schema"]["minimum"] == 1
