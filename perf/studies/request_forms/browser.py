"""`fetch` in a headless Chromium, driven over its DevTools socket."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
from websockets.sync.client import ClientConnection, connect

from perf.load.generator import LoadError, Saw
from perf.load.request_forms import BODY, COOKIE
from perf.studies.proxies import program

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",  # which root does not get
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
START_S = 60.0
_WHERE = "document.readyState + location.pathname"

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
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program(*PROGRAMS), *FLAGS, f"--user-data-dir={profile}", f"{url}/livez"]
        quiet = subprocess.DEVNULL
        with subprocess.Popen(
            command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
        ) as process:
            try:
                with connect(_page(Path(profile)), proxy=None, max_size=None) as page:
                    deadline = time.monotonic() + START_S
                    while _evaluate(page, _WHERE) != "complete/livez":
                        if time.monotonic() > deadline:
                            raise LoadError(f"the browser did not load {url}/livez")
                    yield lambda callers, seconds: _fetch(page, callers, seconds)
            finally:
                process.terminate()


def _page(profile: Path) -> str:
    """Give the address of the page's DevTools socket once it is there."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with suppress(OSError, IndexError, httpx.TransportError):
            port = (profile / "DevToolsActivePort").read_text().splitlines()[0]
            told = httpx.get(f"http://127.0.0.1:{port}/json/list", trust_env=False).json()
            for one in told:
                if one["type"] == "page" and one["url"].endswith("/livez"):
                    return str(one["webSocketDebuggerUrl"])
        time.sleep(0.05)
    raise LoadError(f"the browser opened no page in {START_S:g} s")


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
    told = json.loads(page.recv(timeout=2 * START_S))
    return told.get("result", {}).get("result", {}).get("value", told)
