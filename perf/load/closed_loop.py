"""Closed-loop load: each connection sends its next request when it has its answer.

`wrk` makes it, or where that is missing our own generator, which can send less. `wrk` adds to its
histogram, for each latency above twice the mean time between requests of a connection, the requests
that it held up; so its counts can be more than its requests.
"""

import json
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from perf.load import generator
from perf.load.generator import LoadError, Saw
from perf.load.measurement import Measurement
from perf.load.observations import body
from perf.load.target import Target

_SCRIPT = """
wrk.method = "POST"
wrk.body = io.open(%s, "rb"):read("*a")
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
    asked = body(batch_size, steering, target.space)
    tool = "wrk" if have_wrk() or vary else "perf.load.generator"
    if tool == "wrk":
        content = json.dumps(asked).encode()
        saw = wrk(target.url, target.headers, content, connections, seconds, vary)
    else:
        saw = generator.run(target.load(asked, connections, seconds))
    return target.measured(
        saw, loop="closed", tool=tool, concurrency=connections, batch_size=batch_size
    )


def wrk(
    url: str,
    headers: Iterable[tuple[str, str]],
    content: bytes,
    connections: int,
    seconds: float,
    vary: bool = False,
) -> Saw:
    """Let `wrk` send `POST /predict`, for whole seconds. Raises LoadError where it can't."""
    if not have_wrk():
        raise LoadError("wrk is missing: apt-get install wrk")
    lines = [f"wrk.headers[{json.dumps(k)}] = {json.dumps(v)}" for k, v in headers]
    with tempfile.TemporaryDirectory() as folder:
        script, file = Path(folder) / "load.lua", Path(folder) / "content"
        file.write_bytes(content)
        more = "\n".join([*lines, _VARY if vary else ""])
        script.write_text(_SCRIPT % (json.dumps(str(file)), more))
        times = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
        command = ["wrk", *times, "-s", str(script), f"{url}/predict"]
        done = subprocess.run(command, capture_output=True, text=True)
    told = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not told:
        said = (done.stderr or done.stdout).strip()
        raise LoadError(f"wrk ended with status {done.returncode}: {said}")
    result = json.loads(told[0].removeprefix("RESULT "))
    errors = {kind: count for kind, count in result["errors"].items() if count}
    # wrk counts requests and latencies of all answers, whatever their status.
    good = result["requests"] - errors.get("status", 0)
    counts = [(value, count) for value, count in result["counts"]]
    return Saw(result["us"] / 1e6, answered=good, errors=errors, counts=counts)
