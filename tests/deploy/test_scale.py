"""Three gateways and two Tritons behind HAProxy: promoted, rolled back and drained under load.

Gateways 1 and 2 ask Triton A, gateway 3 asks Triton B, each with a repository of its own: what the
gateways of one Triton answer changes together, and no gateway sees two Tritons that disagree.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.deploy.containers import missing
from tests.gateway.processes import OBSERVATION, gateway_process, predict, status, until
from tests.stack import ROOT, clean_environment, free_ports, running_stack

pytestmark = pytest.mark.deploy

PACKAGES = {"haproxy": "haproxy", "prometheus": "prometheus"}
OLD, NEW = "v0.2.0", "v0.1.0"
CLIENTS = 6
PATIENCE_S = 120.0
STEADY = 200
"""Answers that are waited for before, between and after what is done to the fleet."""


@dataclass(frozen=True)
class Fleet:
    """Everything that runs: the Tritons with their repositories, and how to end gateway 2."""

    url: str
    gateways: tuple[str, str, str]
    tritons: tuple[tuple[Path, str], tuple[Path, str]]
    metrics: tuple[str, str]
    prometheus: str
    drain: Callable[[], None]

    def query(self, expression: str) -> dict[str, dict[str, Any]]:
        """Ask Prometheus; instance → labels, with the value as `value`."""
        answer = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": expression})
        rows = answer.json()["data"]["result"]
        return {r["metric"]["instance"]: r["metric"] | {"value": r["value"][1]} for r in rows}


@contextmanager
def child(folder: Path, command: list[str], ready: str, **variables: str) -> Iterator[None]:
    """Run a program until the block ends, from when `ready` answers 200."""
    with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=clean_environment() | variables, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        until(lambda: status(ready) == 200 or process.poll() is not None, PATIENCE_S)
        assert process.poll() is None, Path(log.name).read_text()
        yield
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    if sentence := missing(PACKAGES):
        pytest.fail(sentence, pytrace=False)
    folder = tmp_path_factory.mktemp("fleet")
    with ExitStack() as running:
        stacks, repositories = [], []
        for name in ("a", "b"):
            repositories.append(folder / name / "model_repository")
            shutil.copytree(ROOT / "model_repository", repositories[-1])
            started = running_stack(MODEL_REPOSITORY=str(repositories[-1]))
            stacks.append(running.enter_context(started))
        a, b = stacks
        second = ExitStack()
        running.push(second)
        triton = f"http://{a.triton_http}"
        gateway = second.enter_context(gateway_process(TRITON_URL=triton))
        gateways = (a.gateway_url, gateway, b.gateway_url)
        metrics = (a.triton_metrics, b.triton_metrics)
        bind, listen = (f"127.0.0.1:{port}" for port in free_ports(2))

        jobs = yaml.safe_load((ROOT / "docker" / "prometheus" / "prometheus.yml").read_text())
        jobs["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        jobs.pop("rule_files", None)
        targets = {"gateway": [url.removeprefix("http://") for url in gateways], "triton": metrics}
        for job in jobs["scrape_configs"]:
            job["static_configs"] = [{"targets": list(targets[job["job_name"]])}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(jobs))
        prometheus = [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={listen}",
        ]
        running.enter_context(child(folder, prometheus, f"http://{listen}/-/ready"))
        addresses = {
            f"GATEWAY_{i}": url.removeprefix("http://") for i, url in enumerate(gateways, 1)
        }
        haproxy = ["haproxy", "-db", "-f", str(ROOT / "docker" / "haproxy.cfg")]
        running.enter_context(
            child(folder, haproxy, f"http://{bind}/readyz", HAPROXY_BIND=bind, **addresses)
        )
        yield Fleet(
            f"http://{bind}",
            gateways,
            ((repositories[0], triton), (repositories[1], f"http://{b.triton_http}")),
            metrics,
            f"http://{listen}",
            second.close,
        )


@dataclass
class Load:
    """Clients that ask through the balancer all the time, and what came back."""

    url: str
    expected: dict[str, list[dict[str, float]]]
    stop: threading.Event = field(default_factory=threading.Event)
    answers: list[tuple[float, float, str]] = field(default_factory=list)
    """When it was asked and answered, and the version that answered."""
    wrong: list[str] = field(default_factory=list)

    def ask(self) -> None:
        body = {"observations": [OBSERVATION], "deterministic": True}
        with httpx.Client(base_url=self.url, timeout=90) as client:
            while not self.stop.is_set():
                asked = time.monotonic()
                try:
                    answer = client.post("/predict", json=body)
                except httpx.HTTPError as error:
                    self.wrong.append(repr(error))
                    continue
                content = answer.json()
                if answer.status_code != 200:
                    self.wrong.append(answer.text)
                elif content["actions"] != self.expected[content["version"]]:
                    self.wrong.append(f"{content['version']} is not what it says: {content}")
                else:
                    self.answers.append((asked, time.monotonic(), content["version"]))

    def steady(self) -> None:
        """Wait for that many more answers."""
        wanted = len(self.answers) + STEADY
        until(lambda: len(self.answers) >= wanted or bool(self.wrong), PATIENCE_S)

    def versions(self, since: float, before: float) -> set[str]:
        """The versions of the answers to what was asked from `since` on and answered `before`."""
        return {v for asked, answered, v in self.answers if asked >= since and answered < before}


@contextmanager
def load_on(fleet: Fleet) -> Iterator[Load]:
    expected = {
        v: predict(fleet.url, version=v, deterministic=True).json()["actions"] for v in (OLD, NEW)
    }
    assert expected[OLD] != expected[NEW]
    load = Load(fleet.url, expected)
    with ThreadPoolExecutor(CLIENTS) as pool:
        asking = [pool.submit(load.ask) for _ in range(CLIENTS)]
        try:
            load.steady()
            yield load
            load.steady()
        finally:
            load.stop.set()
        for one in asking:
            one.result()
    assert not load.wrong, load.wrong[:3]


def test_prometheus_shows_each_replica(fleet: Fleet) -> None:
    gateways = {url.removeprefix("http://") for url in fleet.gateways}
    for job, instances in (("gateway", gateways), ("triton", set(fleet.metrics))):
        expression, up = f'up{{job="{job}"}}', dict.fromkeys(instances, "1")
        until(lambda: _values(fleet, expression) == up, PATIENCE_S)  # noqa: B023
    with load_on(fleet):
        until(lambda: set(_served(fleet)) == gateways, PATIENCE_S)


def _values(fleet: Fleet, expression: str) -> dict[str, str]:
    return {instance: row["value"] for instance, row in fleet.query(expression).items()}


def _active(gateway: str) -> str:
    version: str = httpx.get(f"{gateway}/metadata", timeout=60).json()["version"]
    return version


def _served(fleet: Fleet) -> dict[str, str]:
    rate = (
        'sum by (instance) (rate(carla_rl_requests_total{route="/predict",status="200"}[10s])) > 0'
    )
    return _values(fleet, rate)


@pytest.mark.parametrize(("command", "old", "new"), [("promote", OLD, NEW), ("rollback", NEW, OLD)])
def test_one_version_across_all(
    fleet: Fleet,
    carlarl: Callable[..., subprocess.CompletedProcess[str]],
    capsys: pytest.CaptureFixture[str],
    command: str,
    old: str,
    new: str,
) -> None:
    """One Triton after the other; mixed answers are given while it lasts, and not after."""
    start = time.monotonic()
    with load_on(fleet) as load:
        began = time.monotonic()
        for repository, triton in fleet.tritons:
            arguments = [new] if command == "promote" else []
            where = ("--repository", str(repository), "--triton", triton)
            done = carlarl(command, *arguments, *where)
            assert done.returncode == 0, done.stderr
        for gateway in fleet.gateways:
            until(lambda: _active(gateway) == new, PATIENCE_S)  # noqa: B023
        ended = time.monotonic()
    assert load.versions(start, began) == {old}
    assert old in load.versions(began, ended)
    assert load.versions(ended, time.monotonic()) == {new}
    active = "carla_rl_active_version_info == 1"
    gateways = {url.removeprefix("http://") for url in fleet.gateways}
    until(
        lambda: (
            {i: row["version"] for i, row in fleet.query(active).items()}
            == dict.fromkeys(gateways, new)
        ),
        PATIENCE_S,
    )
    with capsys.disabled():
        print(
            f"\n{command} {old} → {new} on two Tritons in {ended - began:.1f} s, "
            f"{len(load.answers)} requests, 0 failed, none with a wrong label, the slowest "
            f"{max(answered - asked for asked, answered, _ in load.answers) * 1000:.0f} ms"
        )


def test_a_gateway_is_taken_away(fleet: Fleet) -> None:
    """It ends in order under load; what it would have been asked goes to the others."""
    with load_on(fleet):
        fleet.drain()
    rest = {fleet.gateways[i].removeprefix("http://") for i in (0, 2)}
    until(lambda: set(_values(fleet, 'up{job="gateway"} == 1')) == rest, PATIENCE_S)
