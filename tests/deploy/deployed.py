"""What `compose.yaml` started, and what can be asked of it."""

from __future__ import annotations

import json
from dataclasses import dataclass

import httpx

from tests.deploy.containers import Containers

KEY = "a key that only this test has"
SECRET = "what-only-this-test-knows"
OBSERVATION = {"speed": 25.5, "steering": 0.1, "sensors": [0.8, 0.2, 0.5, 0.9, 0.1]}
SERVICES = ("triton", "gateway", "prometheus")
READY_S = 300.0


@dataclass(frozen=True)
class Deployed:
    """What compose.yaml started: how to run its commands, and where the gateway is published."""

    containers: Containers
    variables: dict[str, str]
    url: str

    def compose(self, *arguments: str, profiles: str = "cpu monitoring") -> str:
        return self.containers.compose(*arguments, profiles=profiles, **self.variables)

    def inside(self, service: str, *command: str) -> str:
        return self.containers.run("podman", "exec", self.name(service), *command)

    def name(self, service: str) -> str:
        return f"carlarl-test_{service}_1"

    def predict(self, key: str = KEY) -> httpx.Response:
        body = {"observations": [OBSERVATION], "deterministic": True}
        return httpx.post(f"{self.url}/predict", json=body, headers={"X-API-Key": key}, timeout=10)

    def acts(self, version: str | None = None) -> bool:
        try:
            answer = self.predict()
        except httpx.TransportError:
            return False
        return answer.status_code == 200 and version in (None, answer.json()["version"])

    def scraped(self) -> dict[str, str]:
        """Job → 1 where Prometheus' last scrape of it worked; empty where it does not answer."""
        query = ("promtool", "query", "instant", "-o", "json", "http://127.0.0.1:9090", "up")
        try:
            rows = json.loads(self.inside("prometheus", *query))
        except AssertionError:  # it is starting
            return {}
        return {row["metric"]["job"]: row["value"][1] for row in rows}
