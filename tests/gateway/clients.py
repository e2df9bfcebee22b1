"""Clients that people use, each in a process of its own."""

from __future__ import annotations

import collections
import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import msgspec

from perf.bench.request_forms import BODY
from perf.load.generator import LoadError, Saw
from perf.studies.proxies import MissingError, program
from tests.gateway.python_clients import saw
from tests.stack import ROOT

CURL_RATES = {1: 2000, 32: 6000}
"""How many requests stand for a second of curl, which takes a number and not a time."""

Drive = Callable[[str, int, float], Saw]
"""Asks the gateway of a URL on so many connections for about so many seconds. Raises LoadError,
and MissingError where the client is not there."""


def by_python(name: str, url: str, connections: int, seconds: float) -> Saw:
    """Drive one of `python_clients`; raises MissingError."""
    package = name.removesuffix("_async")
    if importlib.util.find_spec(package) is None:
        raise MissingError(f"{package} is missing: pip install -e '.[bench]' -e client")
    module = "tests.gateway.python_clients"
    told = _run(sys.executable, "-m", module, name, url, str(connections), str(seconds))
    return msgspec.json.decode(told, type=Saw)


def by_curl(url: str, connections: int, seconds: float) -> Saw:
    """Drive `curl --parallel`, whose start is in its time; raises MissingError."""
    count = round(CURL_RATES[connections] * seconds)
    arguments = ["--no-progress-meter", "--parallel", "--parallel-max", str(connections)]
    arguments += ["--output", os.devnull, "--write-out", "%{http_code} %{time_total}\n"]
    arguments += ["--header", "Content-Type: application/json", "--data-binary", BODY.decode()]
    began = time.perf_counter()
    # A fragment stays with curl, so that the requests are alike.
    told = _run(program("curl"), *arguments, f"{url}/predict#[1-{count}]")
    took = time.perf_counter() - began
    answers = [line.split() for line in told.splitlines()]
    statuses = collections.Counter(status for status, _ in answers)
    return saw((float(latency) for _, latency in answers), took, statuses)


def by_hey(url: str, connections: int, seconds: float) -> Saw:
    """Drive `hey`, which is written in Go and tells tenths of milliseconds; raises MissingError."""
    arguments = ["-z", f"{seconds:g}s", "-c", str(connections), "-m", "POST"]
    arguments += ["-T", "application/json", "-d", BODY.decode(), f"{url}/predict"]
    told = _run(program("hey"), *arguments)
    total, p50 = (re.search(rf"{name}\s+([\d.]+)", told) for name in ("Total:", "50% in"))
    statuses = {status: int(n) for status, n in re.findall(r"\[(\d+)\]\t(\d+) responses", told)}
    failed = re.findall(r"\[(\d+)\]", told.partition("Error distribution:")[2])
    statuses["connection"] = sum(map(int, failed))
    latencies = [float(p50[1])] * statuses.get("200", 0) if p50 else []
    return saw(latencies, float(total[1]) if total else seconds, statuses)


def _run(*command: str) -> str:
    """Run a client without the environment's proxies; give what it prints. Raises LoadError."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    done = subprocess.run(command, cwd=ROOT, env=kept, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise LoadError(f"{command[0]} ended with status {done.returncode}")
    return done.stdout


CLIENTS: dict[str, Drive] = {
    "carlarl-client": partial(by_python, "carlarl_client"),
    "carlarl-client, asyncio": partial(by_python, "carlarl_client_async"),
    "requests": partial(by_python, "requests"),
    "aiohttp": partial(by_python, "aiohttp"),
    "curl --parallel": by_curl,
    "hey, in Go": by_hey,
}
