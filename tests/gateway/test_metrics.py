"""What the gateway counts, apart from Prometheus: test_process.py has several workers."""

from __future__ import annotations

import asyncio
import os
import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gateway.observability.metric_families import BUCKETS_S, Counter, Family, Histogram, State
from gateway.observability.metrics import CONTROLS, Metrics
from gateway.observability.series import SAMPLED_ACTIONS
from gateway.observability.workers import MULTIPROCESS_DIR
from tests.gateway.driving import ACTIONS
from tests.gateway.processes import predict, status, until
from tests.gateway.stand_in import StandIn
from tests.gateway.wire.wire import ask, request


def value(text: str, series: str) -> float:
    (found,) = re.findall(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found)


def read(url: str, series: str) -> float:
    return value(httpx.get(url + "/metrics").text, series)


@given(st.lists(st.lists(st.one_of(st.floats(0, 10), st.sampled_from(BUCKETS_S))), min_size=1))
def test_workers_together_are_what_prometheus_client_counts(workers: list[list[float]]) -> None:
    registry = CollectorRegistry()
    theirs = prometheus_client.Histogram("h", "", buckets=BUCKETS_S, registry=registry)
    counted = prometheus_client.Counter("c", "", registry=registry)
    states: list[State] = []
    for seconds in workers:
        histogram, counter = Histogram("h", ""), Counter("c", "")
        for one in seconds:
            theirs.observe(one)
            counted.inc()
            histogram.observe(one)
            counter.inc()
        states.append({one.name: one.series for one in (histogram, counter)})
    ours = [generate_latest(Merged(family, states)) for family in (histogram, counter)]
    texts = [one.decode() for one in (generate_latest(registry), b"".join(ours))]
    stripped = [re.sub(r"(?m)^(h_sum|.*\w+_created).*\n", "", text) for text in texts]
    assert stripped[0] == stripped[1]
    total = sum(map(sum, workers))
    assert abs(value(texts[1], "h_sum") - total) <= 1e-9 * total


@dataclass
class Merged(Collector):
    family: Family
    states: list[State]

    def collect(self) -> Iterator[Metric]:
        yield self.family.collect(self.states, shared=True)


def test_actions() -> None:
    metrics = Metrics()
    actions = [(0.1, 0.0, -1.0), (1.0, 0.0, 0.125)] * 500
    data = b"".join(struct.pack("<3f", *action) for action in actions)
    metrics.acted(1000, data, ACTIONS)
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
        metrics.acted(1000, data, ACTIONS)
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
        "DEADLINE_EXCEEDED", "HTTP_ERROR", "INTERNAL_ERROR", "UNSUPPORTED", "STATE_MISMATCH",
    }  # fmt: skip
    assert "_created" not in text


def test_a_scrape_of_several_workers_stops_no_request(
    stand_in: StandIn, run_gateway: Callable[..., str], tmp_path: Path
) -> None:
    """One worker's file can't be read for a while."""
    url = run_gateway(TRITON_URL=stand_in.url, PROMETHEUS_MULTIPROC_DIR=str(tmp_path))
    slow = tmp_path / "0-1.msgpack"
    os.mkfifo(slow)
    with ThreadPoolExecutor(1) as pool:
        scrape = pool.submit(httpx.get, url + "/metrics", timeout=60)
        file = slow.open("wb")  # as soon as the scrape has opened it
        try:
            assert predict(url).status_code == 200
            assert not scrape.done()
        finally:
            file.write(b"\x80")  # nothing is in it
            file.close()
        assert value(scrape.result().text, "carla_rl_ready") == 1


def test_counts_last_and_gauges_are_those_of_workers_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MULTIPROCESS_DIR, str(tmp_path))
    dead = subprocess.Popen(["true"])
    dead.wait()
    for pid, streams, version in ((os.getppid(), 3, "v2"), (dead.pid, 5, "v3"), (None, 4, "v1")):
        metrics = Metrics()
        metrics.streams.add(streams)
        metrics.ready.set(pid is None)
        metrics.refused.inc(streams)
        metrics.activated("v1", "", "cpu")
        metrics.activated(version, "", "cpu")
        metrics.flush()
        (own,) = tmp_path.glob(f"*-{os.getpid()}.msgpack")
        if pid is not None:
            own.rename(own.with_name(f"{own.name.partition('-')[0]}-{pid}.msgpack"))

    def values() -> list[float]:
        names = ("carla_rl_refused_connections_total", "carla_rl_streams", "carla_rl_ready")
        active = (
            f'{name}{{artifact_digest="",device="cpu",version="{version}"}}'
            for name in ("carla_rl_active_version_info",)
            for version in ("v1", "v2")
        )
        text = asyncio.run(metrics.exposition()).decode()
        assert "v3" not in text
        return [value(text, one) for one in (*names, *active)]

    assert values() == [12, 7, 0, 1, 1]
    # The running worker's id came again: the older file of that id is a dead one's.
    metrics = Metrics()
    assert values() == [12, 3, 0, 0, 1]


def test_a_worker_that_can_t_write_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(MULTIPROCESS_DIR, str(tmp_path))
    metrics = Metrics()
    metrics.refused.inc()
    metrics.flush()
    metrics.refused.inc()
    for path in tmp_path.iterdir():
        path.with_suffix(".part").mkdir()
    text = asyncio.run(metrics.exposition()).decode()
    assert value(text, "carla_rl_refused_connections_total") == 1
    assert "the metrics can't be shared with other workers" in caplog.text


def test_odd_methods_and_paths_make_no_series(lone_gateway: str) -> None:
    """The parser knows a few odd methods, and refuses the rest."""
    known = ["PROPFIND", "MKCOL", "LINK", "PURGE", "TRACE", "REPORT"]

    def series(*asked: tuple[str, str]) -> set[str]:
        for method, path in asked:
            answer = ask(lone_gateway, request(None, method=method, target=path))
            assert answer.status in (400, 404, 405)
        text = httpx.get(lone_gateway + "/metrics").text
        return {line.rpartition(" ")[0] for line in text.splitlines() if "/metrics" not in line}

    before = series(("LINK", "/livez"), ("LINK", "/odd"), ("ODD", "/livez"))
    assert any('method="other",route="/livez",status="405"' in one for one in before), before
    methods = [*known * 50, *(f"ODD{number}" for number in range(700))]
    after = series(*((name, "/livez") for name in methods))
    after |= series(*((name, f"/odd/{place}") for place, name in enumerate(methods)))
    assert after == before


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


@pytest.mark.reliability
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
