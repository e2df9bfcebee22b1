"""What is asked over JSON: a gateway, or a peer that takes the same."""

import json
from dataclasses import dataclass
from typing import Any

import httpx

from perf.load.generator import Load, LoadError, Saw
from perf.load.measurement import Measurement, measured
from perf.load.observations import DRIVING
from policy_spec.parsing import parse_space
from policy_spec.signature import driving_space
from policy_spec.spaces import Space


class TargetError(LoadError):
    """It does not answer, or not as a gateway does; the text says how."""


def ensemble(version: str) -> str:
    """Name a version's ensemble in Triton."""
    return f"carla_policy-{version}"


def fused(version: str) -> str:
    """Name the model that does both steps of a version in one process."""
    return f"carla_policy_fused-{version}"


@dataclass(frozen=True)
class Target:
    """One server, and which policy of it is asked."""

    url: str
    system: str = "carlarl"
    version: str = "v0.2.0"
    format: str = "onnx"
    space: Space = DRIVING
    stateful: bool = False
    api_key: str | None = None

    @property
    def headers(self) -> list[tuple[str, str]]:
        """What each request needs besides its length."""
        key = [] if self.api_key is None else [("X-API-Key", self.api_key)]
        return [("Content-Type", "application/json"), *key]

    def load(
        self, asked: dict[str, Any], connections: int, seconds: float, rate: float | None = None
    ) -> Load:
        """Describe a load on `/predict` for the generator."""
        content = json.dumps(asked).encode()
        return Load.predict(self.url, self.headers, content, connections, seconds, rate)

    def measured(self, saw: Saw, **facts: Any) -> Measurement:
        """Make the measurement of a load. Raises LoadError where no request was answered."""
        if not saw.answered:
            raise LoadError(f"{self.url}: no request was answered: {saw.errors}")
        facts |= {"layer": "gateway", "system": self.system, "target": "/predict"}
        facts |= {"version": self.version, "format": self.format, "errors": saw.errors}
        return measured(saw.counts, saw.answered, saw.seconds, **facts)


def gateway(url: str, api_key: str | None = None) -> Target:
    """Ask the gateway at `url` what it serves. Raises TargetError."""
    headers = {} if api_key is None else {"X-API-Key": api_key}
    try:
        answer = httpx.get(f"{url}/metadata", headers=headers, timeout=10, trust_env=False)
        told = answer.json()
        if answer.status_code != 200:
            raise TargetError(f"{url}/metadata: {told['message']}")
        version, form = told["version"], told["format"]
        described = told.get("observationSpace")  # not by earlier releases
        space = parse_space(described, "space") if described else driving_space(told["sensors"])
        stateful = told.get("stateful", False)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise TargetError(f"{url}: no answer ({error})") from None
    except (ValueError, KeyError, TypeError):
        raise TargetError(f"{url}: no gateway of CarlaRL answers") from None
    return Target(url, "carlarl", version, form, space, stateful, api_key)
