"""`fetch` in a headless Chromium, driven over its DevTools socket."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
from websockets.sync.client import ClientConnection, connect

from perf.load.processes import StartError
from perf.load.request_forms import A_BROWSER_SENDS, BODY
from perf.studies.proxies import program
from perf.studies.request_forms.outcome import Drive, Outcome

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
_LOADED = "complete/livez"

_FETCH = """
(async () => {
  document.cookie = %s
  const latencies = [], answers = {}, began = performance.now()
  async function caller() {
    for (let sent; (sent = performance.now()) < began + %f; ) {
      const headers = {"Content-Type": "application/json"}
      const answer = await fetch("/predict", {method: "POST", headers, body: %s})
      await answer.text()
      latencies.push(performance.now() - sent)
      answers[answer.status] = (answers[answer.status] || 0) + 1
    }
  }
  await Promise.all(Array.from({length: %d}, caller))
  const seconds = (performance.now() - began) / 1000
  latencies.sort((a, b) => a - b)
  const p50_ms = latencies[latencies.length >> 1]
  return JSON.stringify({requests_per_s: latencies.length / seconds, p50_ms, answers})
})()
"""


@contextmanager
def fetches(url: str) -> Iterator[Drive]:
    """Run a browser on a page of the gateway's; gives what lets the page fetch.

    Raises proxies.MissingError or processes.StartError.
    """
    path = program(*PROGRAMS)
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        subprocess.Popen(
            [path, *FLAGS, f"--user-data-dir={profile}", f"{url}/livez"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process,
    ):
        try:
            with connect(_page(process, Path(profile)), proxy=None, max_size=None) as page:
                deadline = time.monotonic() + START_S
                while _evaluate(page, "document.readyState + location.pathname") != _LOADED:
                    if time.monotonic() > deadline:
                        raise StartError(f"{path} did not load {url}/livez")
                    time.sleep(0.05)
                yield lambda callers, seconds: _fetch(page, callers, seconds)
        finally:
            process.terminate()


def _page(process: subprocess.Popen[bytes], profile: Path) -> str:
    """Give the address of the page's DevTools socket once it is there."""
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, IndexError, httpx.TransportError):
            port = (profile / "DevToolsActivePort").read_text().splitlines()[0]
            told = httpx.get(f"http://127.0.0.1:{port}/json/list", trust_env=False).json()
            for one in told:
                if one["type"] == "page" and one["url"].endswith("/livez"):
                    return str(one["webSocketDebuggerUrl"])
        time.sleep(0.05)
    raise StartError(f"{process.args!r} opened no page")


def _fetch(page: ClientConnection, callers: int, seconds: float) -> Outcome:
    cookie = dict(A_BROWSER_SENDS)["Cookie"].partition(";")[0]
    script = _FETCH % (json.dumps(cookie), seconds * 1000, json.dumps(BODY.decode()), callers)
    told = _evaluate(page, script)
    if not isinstance(told, str):
        raise StartError(f"the browser could not fetch: {told}")
    return msgspec.json.decode(told, type=Outcome)


def _evaluate(page: ClientConnection, expression: str) -> object:
    """Give the value of an expression in the page, or the whole answer where there is none."""
    asked = {"expression": expression, "awaitPromise": True, "returnByValue": True}
    page.send(json.dumps({"id": 1, "method": "Runtime.evaluate", "params": asked}))
    told = json.loads(page.recv(timeout=2 * START_S))
    return told.get("result", {}).get("result", {}).get("value", told)
