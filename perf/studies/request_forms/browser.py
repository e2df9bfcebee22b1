"""`fetch` in a headless Chromium, driven over its DevTools socket."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
from websockets.sync.client import ClientConnection, connect

from perf.bench.request_forms import BODY, COOKIE
from perf.load.generator import LoadError, Saw
from perf.load.processes import answers, free_ports, server
from perf.studies.request_forms.proxies import program

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Root does not get a sandbox.
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
WAIT_S = 120.0

_FETCH = """
(async () => {
  document.cookie = %s
  const latencies = [], statuses = {}, began = performance.now()
  async function caller() {
    for (let sent; (sent = performance.now()) < began + %f; ) {
      const headers = {"Content-Type": "application/json"}
      const answer = await fetch("/predict", {method: "POST", headers, body: %s})
      await answer.text()
      latencies.push((performance.now() - sent) / 1000)
      statuses[answer.status] = (statuses[answer.status] || 0) + 1
    }
  }
  await Promise.all(Array.from({length: %d}, caller))
  return JSON.stringify([latencies, (performance.now() - began) / 1000, statuses])
})()
"""


@contextmanager
def fetches(url: str) -> Iterator[Callable[[int, float], Saw]]:
    """Run a browser on a page of the gateway's; gives what lets the page fetch.

    Raises proxies.MissingError, or LoadError where it does not start.
    """
    (port,) = free_ports(1)
    devtools = f"http://127.0.0.1:{port}/json"
    command = [program(*PROGRAMS), *FLAGS.split(), f"--remote-debugging-port={port}"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command += [f"--user-data-dir={profile}", f"{url}/livez"]
        with server(command, lambda: answers(f"{devtools}/version"), os.environ):
            told = httpx.get(f"{devtools}/list", trust_env=False).json()
            (address,) = (one["webSocketDebuggerUrl"] for one in told if one["type"] == "page")
            with connect(address, proxy=None, max_size=None) as page:
                deadline = time.monotonic() + WAIT_S
                while (
                    _evaluate(page, "document.readyState + location.pathname") != "complete/livez"
                ):
                    if time.monotonic() > deadline:
                        raise LoadError(f"the browser did not load {url}/livez")
                yield lambda callers, seconds: _fetch(page, callers, seconds)


def _fetch(page: ClientConnection, callers: int, seconds: float) -> Saw:
    script = _FETCH % (json.dumps(COOKIE), seconds * 1000, json.dumps(BODY.decode()), callers)
    told = _evaluate(page, script)
    if not isinstance(told, str):
        raise LoadError(f"the browser could not fetch: {told}")
    return Saw.of(*json.loads(told))


def _evaluate(page: ClientConnection, expression: str) -> object:
    """Give the value of an expression in the page, or the whole answer where there is none."""
    asked = {"expression": expression, "awaitPromise": True, "returnByValue": True}
    page.send(json.dumps({"id": 1, "method": "Runtime.evaluate", "params": asked}))
    told = json.loads(page.recv(timeout=WAIT_S))
    return told.get("result", {}).get("result", {}).get("value", told)
