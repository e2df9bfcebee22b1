"""The rate of one caller: a bucket for each, and the others go on as if nothing were."""

import json
import threading
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import httpx
import pytest
from websockets.sync.client import connect

from gateway.security import rate_limit as limits
from gateway.security.rate_limit import RateLimit
from tests.gateway.processes import OBSERVATION, check_envelope, predict
from tests.gateway.stand_in import StandIn


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_and_then_the_rate() -> None:
    clock = Clock()
    bucket = RateLimit(per_s=10, burst=3, clock=clock)
    assert [bucket.take("a") for _ in range(3)] == [0, 0, 0]
    assert bucket.take("a") == pytest.approx(0.1, abs=1e-3)
    assert bucket.take("b") == 0  # another caller
    clock.now += 0.11
    assert bucket.take("a") == 0
    assert bucket.take("a") > 0
    clock.now += 100  # a full bucket holds no more than the burst
    assert [bucket.take("a") > 0 for _ in range(4)] == [False, False, False, True]


def test_a_large_request_passes_and_is_paid_for() -> None:
    clock = Clock()
    bucket = RateLimit(per_s=10, burst=2, clock=clock)
    assert bucket.take("a") == 0
    bucket.charge("a", 99)
    assert bucket.take("a") == pytest.approx(9.9, abs=1e-3)
    clock.now += 9.95
    assert bucket.take("a") == 0
    bucket.charge("a", 10)
    assert bucket.take("a") > 0.9


def test_a_refused_request_costs_nothing() -> None:
    clock = Clock()
    bucket = RateLimit(per_s=1, burst=1, clock=clock)
    bucket.take("a")
    waits = [bucket.take("a") for _ in range(1000)]
    assert waits == pytest.approx([1.0] * 1000, abs=1e-3)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CALLERS", 100)
    clock = Clock()
    bucket = RateLimit(per_s=1, burst=1, clock=clock)
    for number in range(1000):
        bucket.take(f"caller {number}")
        assert len(bucket._full_at) <= 100
    assert bucket.take("caller 999") > 0  # those that came last are remembered
    clock.now += 10
    bucket.take("one more")
    bucket.take("caller 999")
    assert bucket.take("caller 999") > 0


def test_a_greedy_client_does_not_starve_the_others(
    stand_in: StandIn, run_gateway: Callable[..., str]
) -> None:
    """One address floods; another asks now and then, and all of its requests are answered."""
    url = run_gateway(
        TRITON_URL=stand_in.url,
        REQUEST_TIMEOUT_MS="20000",
        RATE_LIMIT_PER_S="20",
        RATE_LIMIT_BURST="10",
    )
    greedy = httpx.HTTPTransport(local_address="127.0.0.2")
    polite = httpx.HTTPTransport(local_address="127.0.0.3")
    body = {"observations": [OBSERVATION] * 2, "deterministic": True}
    answers: list[httpx.Response] = []
    took: list[float] = []
    stop = threading.Event()

    def flood() -> None:
        with httpx.Client(transport=greedy, base_url=url, timeout=30) as client:
            while not stop.is_set():
                answers.append(client.post("/predict", json=body))

    flooding = threading.Thread(target=flood)
    began = time.monotonic()
    flooding.start()
    try:
        with httpx.Client(transport=polite, base_url=url, timeout=30) as client:
            while len(took) < 10 or sum(one.status_code == 429 for one in answers) < 10:
                start = time.monotonic()
                assert start - began < 60, "the flood was no flood"
                response = client.post("/predict", json=body)
                took.append(time.monotonic() - start)
                assert response.status_code == 200, response.text
                time.sleep(0.15)  # at most 14 observations a second, of 20
    finally:
        stop.set()
        flooding.join(30)
    elapsed = time.monotonic() - began
    passed = sum(one.status_code == 200 for one in answers)
    refused = [one for one in answers if one.status_code != 200]
    # Two observations each: the burst, the rate for as long as it took, and one on credit.
    assert passed * 2 <= 10 + 20 * elapsed + 2
    details = check_envelope(refused[0], 429, "RESOURCE_EXHAUSTED")
    assert details["request_id"]
    assert all(one.headers["retry-after"] == "1" for one in refused)
    assert median(took) < 1
    text = httpx.get(url + "/metrics").text
    assert f'carla_rl_errors_total{{code="RESOURCE_EXHAUSTED"}} {float(len(refused))}' in text


def test_all_requests_count_together_and_probes_do_not(
    stand_in: StandIn, run_gateway: Callable[..., str]
) -> None:
    url = run_gateway(
        TRITON_URL=stand_in.url,
        REQUEST_TIMEOUT_MS="20000",
        RATE_LIMIT_PER_S="0.01",
        RATE_LIMIT_BURST="10",
    )
    body = {"observations": [OBSERVATION] * 4, "deterministic": True}
    for _ in range(2):
        assert httpx.post(url + "/predict", json=body).status_code == 200
    assert predict(url).status_code == 200
    assert httpx.get(url + "/versions").status_code == 200
    for response in (predict(url), httpx.post(url + "/predict", json=body)):
        check_envelope(response, 429, "RESOURCE_EXHAUSTED")
        assert 1 <= int(response.headers["retry-after"]) <= 100
        assert "this caller" in response.json()["message"]
    check_envelope(httpx.get(url + "/versions"), 429, "RESOURCE_EXHAUSTED")
    for path in ("/livez", "/readyz", "/healthz", "/metrics"):
        assert httpx.get(url + path).status_code == 200


def test_a_large_body_counts_by_its_size(
    stand_in: StandIn, run_gateway: Callable[..., str]
) -> None:
    """Each started 64 KiB after the first is one more, whether it can be read or not."""
    url = run_gateway(
        TRITON_URL=stand_in.url,
        REQUEST_TIMEOUT_MS="20000",
        RATE_LIMIT_PER_S="0.01",
        RATE_LIMIT_BURST="16",
    )
    body = json.dumps({"observations": [OBSERVATION], "deterministic": True}).encode()
    large = body.ljust(200_000)  # counts as 4
    send = partial(httpx.post, url + "/predict", headers={"Content-Type": "application/json"})
    assert send(content=large).status_code == 200
    assert send(content=body.ljust(65_536)).status_code == 200  # 1
    assert send(content=bytes(200_000)).status_code == 422  # 4
    address = url.replace("http", "ws") + "/stream"
    with connect(address, compression=None) as stream:  # 1, and each of these 3
        frame = json.dumps({"stepId": 1, "observation": OBSERVATION, "deterministic": True})
        for _ in range(2):
            stream.send(frame.ljust(140_000))
            assert "action" in json.loads(stream.recv(timeout=20))
        stream.send(frame)
        assert json.loads(stream.recv(timeout=20))["error"] == "RESOURCE_EXHAUSTED"
    check_envelope(send(content=body), 429, "RESOURCE_EXHAUSTED")
