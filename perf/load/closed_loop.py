"""Closed-loop load: each connection sends its next request when it has its answer.

`wrk` makes it, or where that is missing our own generator, which can send less. `wrk` adds to its
histogram, for each latency above twice the mean time between requests of a connection, the requests
that it held up; so its counts can be more than its requests.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import tempfile
from typing import Any

from perf.load import generator
from perf.load.generator import LoadError
from perf.load.measurement import Measurement
from perf.load.observations import body
from perf.load.target import Target

__all__ = ["LoadError", "have_wrk", "run"]

_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
%s
wrk.body = [==[%s]==]
%s
function done(summary, latency, requests)
  local e, counts = summary.errors, {}
  for i = 1, #latency do
    counts[i] = string.format("[%%d,%%d]", latency(i))
  end
  io.write(string.format(
    '\\nRESULT {"requests":%%d,"us":%%d,"errors":{"connect":%%d,"read":%%d,"write":%%d,'
    .. '"status":%%d,"timeout":%%d},"counts":[%%s]}\\n',
    summary.requests, summary.duration, e.connect, e.read, e.write, e.status, e.timeout,
    table.concat(counts, ",")))
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


def have_wrk() -> bool:
    """Whether `wrk` is there."""
    return shutil.which("wrk") is not None


def run(
    target: Target, connections: int, seconds: float, batch_size: int = 1, *, vary: bool = False
) -> Measurement:
    """Load a gateway, or a peer with the same JSON. Raises LoadError where no request succeeded.

    Every request is the same. With `vary`, which needs `wrk`, each differs from all others in its
    speeds, and one run from another in the steering.
    """
    steering = random.uniform(-1, 1) if vary else 0.1
    asked = body(batch_size, steering, target.sensors, target.asked_version)
    tool = "wrk" if have_wrk() or vary else "perf.load.generator"
    if tool == "wrk":
        counts, requests, took, errors = _wrk(target, asked, connections, seconds, vary)
    else:
        saw = generator.run(target.load(asked, connections, seconds))
        counts, requests, took, errors = saw.counts, saw.answered, saw.seconds, saw.errors
    return target.measured(
        counts,
        requests,
        took,
        loop="closed",
        tool=tool,
        concurrency=connections,
        batch_size=batch_size,
        errors=errors,
    )


def _wrk(
    target: Target, asked: dict[str, Any], connections: int, seconds: float, vary: bool
) -> tuple[list[tuple[int, int]], int, float, dict[str, int]]:
    if not have_wrk():
        raise LoadError("wrk is missing: apt-get install wrk")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        headers = (f"wrk.headers[{json.dumps(k)}] = {json.dumps(v)}" for k, v in target.headers)
        lines = "\n".join(headers), json.dumps(asked), _VARY if vary else ""
        script.write(_SCRIPT % lines)
        script.flush()
        times = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
        command = ["wrk", *times, "-s", script.name, f"{target.url}/predict"]
        done = subprocess.run(command, capture_output=True, text=True)
    told = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not told:
        said = (done.stderr or done.stdout).strip()
        raise LoadError(f"wrk ended with status {done.returncode}: {said}")
    result = json.loads(told[0].removeprefix("RESULT "))
    errors = {kind: count for kind, count in result["errors"].items() if count}
    # wrk counts requests and latencies of all answers, whatever their status.
    requests = result["requests"] - errors.get("status", 0)
    counts = [(value, count) for value, count in result["counts"]]
    return counts, requests, result["us"] / 1e6, errors
