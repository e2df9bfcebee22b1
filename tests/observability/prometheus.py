"""A real Prometheus with the committed jobs and rules, and the committed dashboard's panels."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.gateway.processes import status, until
from tests.stack import ROOT, free_ports

FOLDER = ROOT / "docker" / "prometheus"
RULES = FOLDER / "rules.yml"
DASHBOARD = ROOT / "docker" / "grafana" / "provisioning" / "dashboards" / "carlarl.json"

UNPACKED = ROOT / ".prometheus" / "usr" / "bin"
"""Where `make test` puts the programs where they are not installed."""


def program(name: str) -> str:
    """The path of a program of Debian's package; empty where it is missing."""
    return shutil.which(name) or shutil.which(name, path=UNPACKED) or ""


needs_prometheus = pytest.mark.skipif(
    not (program("prometheus") and program("promtool")),
    reason="prometheus and promtool are missing: apt-get install prometheus",
)

Row = tuple[dict[str, str], float]


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus; `window` stands for Grafana's `$__rate_interval`."""

    url: str
    window: str

    def ask(self, path: str, **parameters: Any) -> Any:
        """Ask its API; an invalid query fails."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[Row]:
        """Labels and value of each series that has a number now."""
        rows = self.ask("query", query=self.filled(expression))["result"]
        found = [(row["metric"], float(row["value"][1])) for row in rows]
        return [(labels, value) for labels, value in found if math.isfinite(value)]

    def filled(self, expression: str) -> str:
        return expression.replace("$__rate_interval", self.window)


@contextmanager
def running_prometheus(
    folder: Path, targets: Mapping[str, Sequence[str]], interval: str, window: str
) -> Iterator[Prometheus]:
    """Scrape `targets`, addresses of each committed job, until the block ends."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": interval, "evaluation_interval": interval}
    assert {job["job_name"] for job in config["scrape_configs"]} == set(targets)
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": list(targets[job["job_name"]])}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        group.pop("interval", None)
    (folder / RULES.name).write_text(yaml.safe_dump(rules))
    address = f"127.0.0.1:{free_ports(1)[0]}"
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
    ]
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        ready = f"http://{address}/-/ready"
        until(lambda: status(ready) == 200 or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield Prometheus(f"http://{address}", window)
    finally:
        process.terminate()
        process.wait(20)


def panels() -> list[dict[str, Any]]:
    """The panels of the dashboard, each with the title of its row as `row`."""
    found, row = [], ""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        else:
            found.append(panel | {"row": row})
    return found
