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

_SCRIPT = Path(__file__).with_name("wrk.lua")


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
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        flags = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", f"-s{_SCRIPT}"]
        flags += [f"-H{name}: {value}" for name, value in headers]
        given = [file.name, *(["vary"] if vary else [])]
        command = ["wrk", *flags, f"{url}/predict", "--", *given]
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
