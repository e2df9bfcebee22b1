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
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import msgspec

from perf.load.processes import ROOT
from perf.load.request_forms import BODY
from perf.studies.proxies import MissingError, program
from perf.studies.request_forms import browser
from perf.studies.request_forms.outcome import Drive, Outcome, outcome

CURL_RATES = {1: 2000, 32: 6000}
"""How many requests stand for a second of curl, which takes a number and not a time."""


def by_python(name: str, url: str, connections: int, seconds: float) -> Outcome:
    """Drive one of `python_clients`; raises MissingError."""
    package = name.removesuffix("_async")
    if importlib.util.find_spec(package) is None:
        raise MissingError(f"{package} is missing: pip install -e '.[bench]' -e client")
    module = "perf.studies.request_forms.python_clients"
    arguments = [name, url, str(connections), str(seconds)]
    told = _run([sys.executable, "-m", module, *arguments])
    return msgspec.json.decode(told, type=Outcome)


def by_curl(url: str, connections: int, seconds: float) -> Outcome:
    """Drive `curl --parallel`, whose start is in its time; raises MissingError."""
    count = round(CURL_RATES[connections] * seconds)
    arguments = ["--no-progress-meter", "--parallel", "--parallel-max", str(connections)]
    arguments += ["--output", os.devnull, "--write-out", "%{http_code} %{time_total}\n"]
    arguments += ["--header", "Content-Type: application/json", "--data-binary", BODY.decode()]
    # A fragment stays with curl, so that the requests are alike.
    command = [program("curl"), *arguments, f"{url}/predict#[1-{count}]"]
    began = time.perf_counter()
    told = _run(command).decode()
    took = time.perf_counter() - began
    answers = [line.split() for line in told.splitlines()]
    statuses = collections.Counter(status for status, _ in answers)
    return outcome([float(latency) for _, latency in answers], took, dict(statuses))


def by_hey(url: str, connections: int, seconds: float) -> Outcome:
    """Drive `hey`, which is written in Go and tells tenths of milliseconds; raises MissingError."""
    arguments = ["-z", f"{seconds:g}s", "-c", str(connections)]
    arguments += ["-m", "POST", "-T", "application/json", "-d", BODY.decode()]
    told = _run([program("hey"), *arguments, f"{url}/predict"]).decode()
    figures = dict(re.findall(r"(Requests/sec:|50% in)\s+([\d.]+)", told))
    answers = {status: int(n) for status, n in re.findall(r"\[(\d+)\]\t(\d+) responses", told)}
    failed = re.findall(r"\[(\d+)\]", told.partition("Error distribution:")[2])
    if failed:
        answers["connection"] = sum(map(int, failed))
    rate, p50 = float(figures["Requests/sec:"]), float(figures.get("50% in", 0)) * 1000
    return Outcome(rate, p50, answers)


CLIENTS: dict[str, Callable[[str], AbstractContextManager[Drive]]] = {
    "`carlarl-client`": lambda url: nullcontext(partial(by_python, "carlarl_client", url)),
    "`carlarl-client`, asyncio": lambda url: nullcontext(
        partial(by_python, "carlarl_client_async", url)
    ),
    "`requests`": lambda url: nullcontext(partial(by_python, "requests", url)),
    "`aiohttp`": lambda url: nullcontext(partial(by_python, "aiohttp", url)),
    "`curl --parallel`": lambda url: nullcontext(partial(by_curl, url)),
    "`hey` (Go)": lambda url: nullcontext(partial(by_hey, url)),
    "`fetch` in Chromium, which keeps 6 connections": browser.fetches,
}


def _run(command: list[str]) -> bytes:
    """Run a client without the environment's proxies; give what it prints."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    done = subprocess.run(command, cwd=ROOT, env=kept, stdout=subprocess.PIPE, check=True)
    return done.stdout
