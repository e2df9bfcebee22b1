"""Closed-loop load with `wrk`: each connection sends its next request when it has its answer."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Any

OBSERVATION = {"speed": 25.5, "steering": 0.1, "sensors": [0.8, 0.2, 0.5, 0.9, 0.1]}

_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [==[%s]==]
%s
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nRESULT {"requests":%%d,"us":%%d,"p50":%%f,"p90":%%f,"p99":%%f,"max":%%f,"bad":%%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(90),
    latency:percentile(99), latency.max, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


_VARY = """
local count = 0
function request()  -- no two alike
  count = count + 1
  return wrk.format(nil, nil, nil, (wrk.body:gsub('"speed": [%d.]+',
    function() return string.format('"speed": %.9f', (count * 0.0001) % 200) end)))
end
"""


class WrkError(Exception):
    """`wrk` is missing, or requests failed."""


@dataclass(frozen=True)
class Load:
    """What one run of `wrk` measured; latencies in milliseconds."""

    requests_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    requests: int


def body(observations: int = 1, steering: float = 0.1) -> dict[str, Any]:
    """Give a deterministic request of so many observations, none like another."""
    rows = [
        {**OBSERVATION, "speed": 25.5 + 100 * i / observations, "steering": steering}
        for i in range(observations)
    ]
    return {"observations": rows, "deterministic": True}


def run(
    url: str, connections: int, seconds: float, observations: int = 1, *, vary: bool = False
) -> Load:
    """Load `url`/predict; raises WrkError where any request failed.

    Every request is the same, or with `vary` each differs from all others in its speeds, and one
    run from another in the steering.
    """
    if shutil.which("wrk") is None:
        raise WrkError("wrk is missing: apt-get install wrk")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        asked = body(observations, random.uniform(-1, 1)) if vary else body(observations)
        script.write(_SCRIPT % (json.dumps(asked), _VARY if vary else ""))
        script.flush()
        done = subprocess.run(
            [
                "wrk",
                "-t1",
                f"-c{connections}",
                f"-d{seconds:.0f}s",
                "-s",
                script.name,
                f"{url}/predict",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    told = json.loads(line.removeprefix("RESULT "))
    if told["bad"] or not told["requests"]:
        raise WrkError(f"{url}: {told['bad']} of {told['requests']} requests failed")
    return Load(
        requests_per_s=told["requests"] / told["us"] * 1e6,
        p50_ms=told["p50"] / 1e3,
        p90_ms=told["p90"] / 1e3,
        p99_ms=told["p99"] / 1e3,
        max_ms=told["max"] / 1e3,
        requests=told["requests"],
    )
