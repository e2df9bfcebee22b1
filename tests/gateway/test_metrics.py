"""What the gateway counts, apart from Prometheus: test_process.py has several workers."""

from __future__ import annotations

import asyncio
import os
import re
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from gateway.observability.metric_families import Count, Distribution
from gateway.observability.metrics import CONTROLS, Metrics
from gateway.observability.series import BUCKETS_S, SAMPLED_ACTIONS
from tests.gateway.processes import predict, status, until
from tests.gateway.stand_in import StandIn


def value(text: str, series: str) -> float:
    (found,) = re.findall(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found)


def read(url: str, series: str) -> float:
    return value(httpx.get(url + "/metrics").text, series)


@given(st.lists(st.lists(st.one_of(st.floats(0, 10), st.sampled_from(BUCKETS_S)))))
def test_tallies_are_what_prometheus_client_counts(flushes: list[list[float]]) -> None:
    registries = [CollectorRegistry(), CollectorRegistry()]
    theirs, ours = (Histogram("h", "", buckets=BUCKETS_S, registry=one) for one in registries)
    counted, counter = (Counter("c", "", registry=one) for one in registries)
    tally, count = Distribution(ours), Count(counter)
    for seconds in flushes:
        for one in seconds:
            theirs.observe(one)
            counted.inc()
            tally.observe(one)
            count.number += 1
        tally.flush()
        count.flush()
    texts = [
        re.sub(r"(h_sum|\w+_created) .*", "", generate_latest(one).decode()) for one in registries
    ]
    assert texts[0] == texts[1]
    total = sum(map(sum, flushes))
    assert abs(value(generate_latest(registries[1]).decode(), "h_sum") - total) <= 1e-9 * total


def test_actions() -> None:
    metrics = Metrics()
    actions = [(0.1, 0.0, -1.0), (1.0, 0.0, 0.125)] * 500
    data = b"".join(struct.pack("<3f", *action) for action in actions)
    metrics.acted(1000, data)
    text = asyncio.run(metrics.exposition()).decode()
    shares = {
        ("throttle", "0.0"): 0, ("throttle", "0.125"): 500, ("throttle", "1.0"): 1000,
        ("brake", "-0.125"): 0, ("brake", "0.0"): 1000,
        ("steer", "-1.0"): 500, ("steer", "0.0"): 500, ("steer", "0.125"): 1000,
    }  # fmt: skip
    for (control, bound), count in shares.items():
        series = f'carla_rl_action_ratio_bucket{{control="{control}",le="{bound}"}}'
        assert value(text, series) == count

    for _ in range(5):
        metrics.acted(1000, data)
    text = asyncio.run(metrics.exposition()).decode()
    assert value(text, "carla_rl_observations_total") == 6000
    for control in CONTROLS:
        series = f'carla_rl_action_ratio_count{{control="{control}"}}'
        assert value(text, series) == 1000 + SAMPLED_ACTIONS


def test_the_first_errors_of_a_process_raise_a_rate(
    run_gateway: Callable[..., str], stand_in: StandIn
) -> None:
    """Their series are there, at 0, before anything was asked."""
    text = httpx.get(run_gateway("/livez", TRITON_URL=stand_in.url) + "/metrics").text
    for route, method in (("/predict", "POST"), ("/stream", "WS")):
        for number in (200, 429, 500, 502, 503, 504):
            labels = f'method="{method}",route="{route}",status="{number}"'
            assert value(text, f"carla_rl_requests_total{{{labels}}}") == 0
    codes = set(re.findall(r'^carla_rl_errors_total{code="(\w+)"}', text, re.MULTILINE))
    assert codes == {
        "VALIDATION_ERROR", "UNSUPPORTED_MEDIA_TYPE", "PAYLOAD_TOO_LARGE", "UNAUTHORIZED",
        "MODEL_NOT_FOUND", "RESOURCE_EXHAUSTED", "INFERENCE_ERROR", "SERVICE_UNAVAILABLE",
        "DEADLINE_EXCEEDED", "HTTP_ERROR", "INTERNAL_ERROR",
    }  # fmt: skip
    assert "_created" not in text


def test_a_scrape_of_several_workers_stops_no_request(
    stand_in: StandIn, run_gateway: Callable[..., str], tmp_path: Path
) -> None:
    """One worker's file can't be read for a while."""
    url = run_gateway(TRITON_URL=stand_in.url, PROMETHEUS_MULTIPROC_DIR=str(tmp_path))
    slow = tmp_path / "counter_1.db"
    os.mkfifo(slow)
    with ThreadPoolExecutor(1) as pool:
        scrape = pool.submit(httpx.get, url + "/metrics", timeout=60)
        file = slow.open("wb")  # as soon as the scrape has opened it
        try:
            assert predict(url).status_code == 200
            assert not scrape.done()
        finally:
            file.write(struct.pack("<i4x", 8))  # nothing is in it
            file.close()
        assert value(scrape.result().text, "carla_rl_ready") == 1


def test_the_queue_and_the_wait_in_it(run_gateway: Callable[..., str]) -> None:
    """One call hangs for three seconds, and three requests wait for it meanwhile."""
    stand_in = StandIn()
    stand_in.start()
    url = run_gateway(
        TRITON_URL=stand_in.url,
        CALLS_IN_FLIGHT="1",
        MAX_WAITING="500",
        REQUEST_TIMEOUT_MS="20000",
    )
    assert read(url, "carla_rl_queue_limit_observations") == 500
    assert read(url, "carla_rl_queue_observations") == 0
    stand_in.mode = "hang"
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(predict, url, 1)]
        until(lambda: bool(stand_in.calls))
        asked += [pool.submit(predict, url, 10) for _ in range(3)]
        until(lambda: read(url, "carla_rl_queue_observations") == 30)
        stand_in.mode = "ok"
        assert {one.result().status_code for one in asked} == {200}
    text = httpx.get(url + "/metrics").text
    assert value(text, "carla_rl_queue_observations") == 0
    assert value(text, "carla_rl_queue_wait_seconds_count") == 4
    assert value(text, 'carla_rl_queue_wait_seconds_bucket{le="0.25"}') == 1
    assert value(text, 'carla_rl_queue_wait_seconds_bucket{le="5.0"}') == 4
    assert value(text, "carla_rl_joined_observations_sum") == 31
    stand_in.stop()


def test_ready_warm_and_reconnects(run_gateway: Callable[..., str]) -> None:
    stand_in = StandIn()
    stand_in.start()
    url = run_gateway(TRITON_URL=stand_in.url)

    def flags() -> tuple[float, float]:
        text = httpx.get(url + "/metrics").text
        return value(text, "carla_rl_ready"), value(text, "carla_rl_warm")

    assert flags() == (1, 1)
    assert read(url, "carla_rl_triton_reconnects_total") == 0
    stand_in.mode = "hang"  # too slow to be ready, and not away
    until(lambda: flags() == (0, 1))
    stand_in.mode = "ok"
    until(lambda: flags() == (1, 1))
    # The gateway closed what it did not wait for any longer: nothing was lost.
    assert read(url, "carla_rl_triton_reconnects_total") == 0
    stand_in.stop()
    until(lambda: flags() == (0, 0))
    assert status(url + "/readyz") == 503
    stand_in.start()
    until(lambda: flags() == (1, 1))
    assert read(url, "carla_rl_triton_reconnects_total") > 0
    stand_in.stop()
