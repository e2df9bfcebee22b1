"""A real Prometheus scrapes the real stack, and every query of the dashboard returns data."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from tritonclient.http import InferenceServerClient, InferInput

from tests.gateway.processes import gateway_process, predict, until
from tests.gateway.streams import metric, stream
from tests.observability.prometheus import (
    RULES,
    Prometheus,
    Row,
    needs_prometheus,
    panels,
    running_prometheus,
)
from tests.stack import ROOT, Stack

pytestmark = needs_prometheus

PATIENCE_S = 60.0
GPU_SERIES = {
    "nv_gpu_utilization",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_memory_total_bytes",
    "nv_gpu_power_usage",
}
"""What Triton documents of GPUs, docs/user_guide/metrics.md; there is none where this runs."""


@contextmanager
def traffic(urls: tuple[str, ...], triton_http: str) -> Iterator[None]:
    """Requests of several sizes to each gateway, some of them wrong, and to Triton's ensemble."""
    stop = threading.Event()

    def ask(url: str) -> None:
        while not stop.is_set():
            for count in (1, 2, 8, 30):
                assert predict(url, count).status_code == 200
            assert predict(url, deterministc=True).status_code == 422
            stop.wait(0.02)

    def infer() -> None:
        tensors = []
        for name, kind, value in (
            ("speed", "FP32", np.full((1, 1), 25.5, np.float32)),
            ("steering", "FP32", np.full((1, 1), 0.1, np.float32)),
            ("sensors", "FP32", np.full((1, 5), 0.5, np.float32)),
            ("deterministic", "BOOL", np.full((1, 1), True)),
            ("seed", "INT64", np.zeros((1, 1), np.int64)),
        ):
            tensors.append(InferInput(name, value.shape, kind))
            tensors[-1].set_data_from_numpy(value)
        with InferenceServerClient(triton_http) as client:
            while not stop.wait(0.05):
                client.infer("carla_policy", tensors)

    def drive(url: str) -> None:
        with stream(url) as car:
            step = 0
            while not stop.wait(0.05):
                step += 1
                assert car.ask(step)["stepId"] == step

    with ThreadPoolExecutor(16) as pool:
        asking = [pool.submit(ask, url) for url in urls for _ in range(2)] + [pool.submit(infer)]
        asking += [pool.submit(drive, url) for url in urls]
        try:
            yield
        finally:  # also where the test failed: it may have, because one of these did
            stop.set()
            for one in asking:
                one.result()


@pytest.fixture(scope="module")
def gateways(stack: Stack) -> Iterator[tuple[str, str]]:
    """URLs of two replicas of one Triton; the second has two workers."""
    with gateway_process(TRITON_URL=f"http://{stack.triton_http}", WORKERS="2") as second:
        yield stack.gateway_url, second


@pytest.fixture(scope="module")
def prometheus(
    stack: Stack, gateways: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    targets = {
        "gateway": [url.removeprefix("http://") for url in gateways],
        "triton": [stack.triton_metrics],
    }
    folder = tmp_path_factory.mktemp("prometheus")
    with running_prometheus(folder, targets, "500ms", "5s") as running:
        yield running


def test_what_is_scraped(prometheus: Prometheus, gateways: tuple[str, str]) -> None:
    up = {"gateway": 2.0, "triton": 1.0}
    until(lambda: _by(prometheus, "job", "sum by (job) (up)") == up, PATIENCE_S)
    config = prometheus.ask("status/config")["yaml"]
    assert "rules.yml" in config
    for name in ("carla_rl_ready", "carla_rl_warm"):
        assert [value for _, value in prometheus.query(name)] == [1.0, 1.0]


def test_every_query_of_the_dashboard_returns_data(
    prometheus: Prometheus, stack: Stack, gateways: tuple[str, str]
) -> None:
    queries = [
        (panel["row"], panel["title"], target["expr"])
        for panel in panels()
        for target in panel["targets"]
    ]
    assert {row for row, _, _ in queries} >= {"GPU", "Actions", "Queue and batches", "Version"}
    gpu = [expression for row, _, expression in queries if row == "GPU"]
    rest = [query for query in queries if query[0] != "GPU"]
    replicas = {url.removeprefix("http://") for url in gateways}
    found: dict[str, list[Row]] = {}

    def all_there() -> bool:
        found.update({e: prometheus.query(e) for _, _, e in rest if not found.get(e)})
        per_replica = [e for _, _, e in rest if "by (instance) (carla_rl" in e]
        for expression in per_replica:
            if {labels["instance"] for labels, _ in found[expression]} != replicas:
                found[expression] = []
        return all(found.values())

    def streams_are_there() -> bool:
        own = {place: _own(place, "streams") for place in replicas}
        return min(own.values()) >= 1 and own == _by(prometheus, "instance", "carla_rl_streams")

    with traffic(gateways, stack.triton_http):
        until(streams_are_there, PATIENCE_S)
        try:
            until(all_there, PATIENCE_S)
        except AssertionError:
            pytest.fail(
                "no data: " + "; ".join(str(query) for query in rest if not found[query[2]])
            )
    shown = {expression: rows for expression, rows in found.items() if "action_ratio" in expression}
    assert shown
    for panel in panels():  # an action of 0 lies in the bucket that ends there, and is not hidden
        least = panel["fieldConfig"]["defaults"].get("min", -math.inf)
        for expression in {target["expr"] for target in panel["targets"]} & set(shown):
            assert all(value >= least for _, value in shown[expression]), expression
    for expression in gpu:  # valid, and of series that a Triton with a GPU has
        prometheus.query(expression)
        assert set(re.findall(r"\bnv_\w+", expression)) <= GPU_SERIES
        assert not re.findall(r"\bcarla_rl\w+", expression)


def test_the_sums_are_the_gateways_own(
    prometheus: Prometheus, stack: Stack, gateways: tuple[str, str]
) -> None:
    with traffic(gateways, stack.triton_http):
        until(lambda: bool(prometheus.query("rate(carla_rl_observations_total[2s]) > 0")))
    for place in (url.removeprefix("http://") for url in gateways):
        said = f'carla_rl_observations_total{{instance="{place}"}}'
        until(lambda: _one(prometheus, said) == _own(place, "observations_total"), PATIENCE_S)  # noqa: B023


def test_the_rules_name_series_that_are_there(prometheus: Prometheus) -> None:
    """Their unit tests make up their own input, so that a misspelt name would pass."""
    text = RULES.read_text()
    recorded = set(re.findall(r"record: (\S+)", text))
    for series in set(re.findall(r"\bcarla_rl_\w+(?=[{\[ ])", text)) - {"carla_rl_slow"}:
        assert prometheus.query(f"count({series})"), series
    for series in recorded:
        until(lambda: bool(prometheus.query(series)), PATIENCE_S)  # noqa: B023
    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == sum(
        len(group["rules"]) for group in yaml.safe_load(RULES.read_text())["groups"]
    )
    assert {rule["health"] for rule in rules} == {"ok"}
    firing = [rule["name"] for rule in rules if rule.get("state") == "firing"]
    assert not firing


def test_grafana_finds_the_dashboard() -> None:
    folder = ROOT / "docker" / "grafana" / "provisioning"
    (mount,) = [
        volume
        for volume in yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["grafana"][
            "volumes"
        ]
        if volume.startswith("./docker/grafana")
    ]
    source, target, _ = mount.split(":")
    assert (ROOT / source).resolve() == folder
    (provider,) = yaml.safe_load((folder / "dashboards" / "carlarl.yml").read_text())["providers"]
    inside = Path(provider["options"]["path"]).relative_to(target)
    assert [path.name for path in (folder / inside).glob("*.json")] == ["carlarl.json"]
    (data,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    for panel in panels():
        for one in (panel, *panel["targets"]):
            assert one["datasource"] == {"type": data["type"], "uid": data["uid"]}


def _by(prometheus: Prometheus, label: str, expression: str) -> dict[str, float]:
    return {labels[label]: value for labels, value in prometheus.query(expression)}


def _one(prometheus: Prometheus, expression: str) -> float:
    ((_, value),) = prometheus.query(expression)
    return value


def _own(place: str, name: str) -> float:
    """Return what the gateway at `place` says of a series without labels."""
    return metric(f"http://{place}", f"carla_rl_{name} ")
