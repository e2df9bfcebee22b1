"""Gateway processes on free ports, and what is asked of them again and again."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
OBSERVATION = {"speed": 25.5, "steering": 0.1, "sensors": [0.8, 0.2, 0.5, 0.9, 0.1]}
READY_S = 30.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def held_port() -> int:
    """A port at which nobody listens, kept for the life of this process.

    A gateway asks its Triton again and again, and would ask another test's server that got the
    port meanwhile. A server that reuses addresses, as the stand-in does, can listen there.
    """
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind(("127.0.0.1", 0))
    _places.append(place)
    return place.getsockname()[1]


_places: list[socket.socket] = []


def until(holds: Callable[[], bool], seconds: float = READY_S) -> float:
    """Wait until `holds` does and give back how long that took."""
    start = time.monotonic()
    while not holds():
        assert time.monotonic() - start < seconds, "it never held"
        time.sleep(0.02)
    return time.monotonic() - start


def status(url: str) -> int:
    """Status of a GET, 0 where nobody answers."""
    try:
        return httpx.get(url, timeout=5).status_code
    except httpx.TransportError:
        return 0


@contextmanager
def gateway_process(
    wait_for: str = "/readyz", cwd: Path = ROOT, before: str = "", **environment: str
) -> Iterator[str]:
    """Run `python -m gateway`, the one in `cwd`, until the block ends, and give its URL.

    `before` is Python that runs first.
    """
    port = free_port()
    code = f"{before}\nfrom gateway.__main__ import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code] if before else [sys.executable, "-m", "gateway"],
        cwd=cwd,
        env={**os.environ, "PORT": str(port), "SHUTDOWN_NOTICE_S": "0", **environment},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: status(url + wait_for) == 200 or process.poll() is not None)
        assert process.poll() is None, "the gateway ended by itself"
        yield url
    finally:
        process.terminate()
        process.wait(20)


def predict(url: str, count: int = 1, **more: Any) -> httpx.Response:
    """Ask for the actions of `count` equal observations."""
    content = {"observations": [OBSERVATION] * count, **more}
    return httpx.post(url + "/predict", json=content, timeout=10)


def check_envelope(response: httpx.Response, status: int, code: str) -> dict:
    """Check that `response` is the error `code`, and give its details."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    envelope = response.json()
    assert set(envelope) == {"error", "message", "details", "timestamp"}
    assert envelope["error"] == code
    assert envelope["message"]
    assert envelope["details"]["request_id"] == response.headers["x-request-id"]
    assert abs(envelope["timestamp"] - time.time()) < 60
    assert float(response.headers["x-process-time"]) >= 0
    return envelope["details"]
