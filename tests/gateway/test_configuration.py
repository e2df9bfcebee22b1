"""The configuration changes under a running gateway, and no connection is dropped."""

import hashlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from gateway.reload import POLL_S
from tests.gateway.processes import (
    OBSERVATION,
    ROOT,
    check_envelope,
    free_port,
    held_port,
    status,
    until,
)
from tests.gateway.stand_in import StandIn

BODY = {"observations": [OBSERVATION], "deterministic": True}
PATIENT = {"request_timeout_ms": 20_000}
"""So that a slow machine's answers come too."""
PAGE = {"Origin": "https://page.org"}


@dataclass
class Running:
    """A gateway process with a configuration file, and what it logs."""

    url: str
    file: Path
    log: Path
    process: subprocess.Popen[bytes]
    changes: int = 1000

    def change(self, **settings: Any) -> None:
        """Change the profile and wait until that is in force."""
        self.changes += 1  # told apart by a setting that has no effect alone
        self.write(rate_limit_burst=self.changes, **settings)
        self.logs(f"rate_limit_burst={self.changes}, ")

    def write(self, **settings: Any) -> None:
        """Change the profile in force, as an editor does: another file in its place."""
        fresh = self.file.with_suffix(".new")
        content = {"defaults": PATIENT, "profiles": {"production": settings}}
        fresh.write_text(yaml.safe_dump(content))
        fresh.replace(self.file)

    def logs(self, text: str, times: int = 1) -> None:
        """Wait until `text` is in the log so many times."""
        until(lambda: self.log.read_text().count(text) >= times)

    def post(self, client: httpx.Client, **headers: str) -> httpx.Response:
        return client.post(self.url + "/predict", json=BODY, headers=headers)


@contextmanager
def running(folder: Path, wait_for: str = "/readyz", **environment: str) -> Iterator[Running]:
    port = free_port()
    log = folder / "log"
    file = folder / "carlarl.yaml"
    variables = {"PORT": str(port), "CONFIG_FILE": str(file), "PROFILE": "production"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway"],
            cwd=ROOT,
            env={**os.environ, **variables, **environment},
            stderr=output,
        )
    one = Running(f"http://127.0.0.1:{port}", file, log, process)
    try:
        until(lambda: status(one.url + wait_for) == 200 or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield one
    finally:
        process.terminate()
        process.wait(20)
    assert "\nTraceback" not in log.read_text()


@pytest.fixture(scope="module")
def triton() -> Iterator[StandIn]:
    stand_in = StandIn()
    stand_in.start()
    yield stand_in
    stand_in.stop()


@pytest.fixture(scope="module")
def shared(triton: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("configuration")
    content = {"defaults": PATIENT, "profiles": {"production": {}}}
    (folder / "carlarl.yaml").write_text(yaml.safe_dump(content))
    with running(folder, TRITON_URL=triton.url, MAX_WAITING="5000") as one:
        yield one


@pytest.fixture
def gateway(shared: Running) -> Iterator[tuple[Running, httpx.Client]]:
    """A gateway that is as it was after each test, and a client of it."""
    with httpx.Client(timeout=30) as client:
        yield shared, client
    shared.change()


def test_no_connection_is_dropped(gateway: tuple[Running, httpx.Client]) -> None:
    """One caller goes on asking on its connection while everything changes."""
    one, client = gateway
    asked: list[float] = []
    answers: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            asked.append(time.monotonic())
            answers.append(one.post(client).status_code)

    assert one.post(client).status_code == 200
    kept = _connections(client)
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        one.change(cache_bytes=1 << 20, calls_in_flight=4, cors_origins="https://page.org")
        one.change(max_waiting=7, request_timeout_ms=30_000, log_level="warning")
        one.change()
    finally:
        stop.set()
        asking.join(30)
    assert set(answers) == {200}
    gaps = [after - before for before, after in itertools.pairwise(asked)]
    # A machine that stood still for long makes the gateway close an idle connection, as ever.
    assert _connections(client) == kept or max(gaps) > 4


def _connections(client: httpx.Client) -> list[Any]:
    pool: Any = client._transport
    return list(pool._pool.connections)


def test_limits_of_a_request(gateway: tuple[Running, httpx.Client]) -> None:
    one, client = gateway
    one.change(max_body_bytes=20)
    assert check_envelope(one.post(client), 413, "PAYLOAD_TOO_LARGE")["limit"] == 20
    one.change(max_body_bytes=2000)
    assert one.post(client).status_code == 200


def test_the_deadline(gateway: tuple[Running, httpx.Client], triton: StandIn) -> None:
    one, client = gateway
    one.change(request_timeout_ms=50)
    triton.mode = "hang"
    try:
        check_envelope(one.post(client), 504, "DEADLINE_EXCEEDED")
    finally:
        triton.mode = "ok"


def test_the_cache(gateway: tuple[Running, httpx.Client], triton: StandIn) -> None:
    one, client = gateway
    one.change(cache_bytes=1 << 20)
    one.post(client)
    triton.calls.clear()
    assert one.post(client).status_code == 200
    assert triton.calls == []
    one.change(cache_bytes=0)
    assert one.post(client).status_code == 200
    assert len(triton.calls) == 1


def test_cors(gateway: tuple[Running, httpx.Client]) -> None:
    one, client = gateway
    allowed = "access-control-allow-origin"
    assert client.get(one.url + "/livez", headers=PAGE).headers[allowed] == "*"
    one.change(cors_origins=["https://page.org"], cors_credentials=True)
    answer = client.get(one.url + "/livez", headers=PAGE)
    assert answer.headers[allowed] == "https://page.org"
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert (
        allowed not in client.get(one.url + "/livez", headers={"Origin": "https://x.org"}).headers
    )
    one.write(cors_origins=["*"], cors_credentials=True)
    one.logs("CORS_CREDENTIALS=1: CORS_ORIGINS must name the origins, * lets every page in; all")
    assert client.get(one.url + "/livez", headers=PAGE).headers[allowed] == "https://page.org"


def test_doors(gateway: tuple[Running, httpx.Client], tmp_path: Path) -> None:
    """Keys, pages and metrics: closed and opened, with a key added and taken away."""
    one, client = gateway
    keys = tmp_path / "keys"
    digests = {key: hashlib.sha256(key.encode()).hexdigest() for key in ("first", "second")}
    keys.write_text(f"{digests['first']}  # the lab's\n")
    access_control = {"docs_access": "closed", "console_access": "closed", "metrics_access": "key"}
    assert client.get(one.url + "/console").status_code == 200
    one.change(api_keys_file=str(keys), **access_control)
    check_envelope(one.post(client), 401, "UNAUTHORIZED")
    for path in ("/docs", "/redoc", "/openapi.json", "/console", "/console/track.js"):
        check_envelope(client.get(one.url + path), 404, "HTTP_ERROR")
    check_envelope(client.get(one.url + "/metrics"), 401, "UNAUTHORIZED")
    first, second = {"x-api-key": "first"}, {"Authorization": "Bearer second"}
    assert client.get(one.url + "/metrics", headers=first).status_code == 200
    assert one.post(client, **first).status_code == 200
    assert one.post(client, **second).status_code == 401
    assert client.get(one.url + "/readyz").status_code == 200

    keys.write_text(f"{digests['second']}\n")  # written in place
    until(lambda: one.post(client, **second).status_code == 200)
    assert one.post(client, **first).status_code == 401
    keys.write_text("# none\n")  # a mistake lets nobody else in, and nobody out
    one.logs(f"API_KEYS_FILE={keys}: it must hold the SHA-256 of a key; the keys stay as they were")
    assert one.post(client, **second).status_code == 200
    assert one.post(client, **first).status_code == 401
    keys.unlink()  # who knows which keys are good then?
    for key in (first, second):
        until(lambda key=key: one.post(client, **key).status_code == 503)  # type: ignore[misc]
    assert client.get(one.url + "/readyz").status_code == 200
    keys.write_text(f"{digests['second']}\n")
    until(lambda: one.post(client, **second).status_code == 200)
    assert "second" not in one.log.read_text()
    assert not any(digest in one.log.read_text() for digest in digests.values())


def _write_a_gigabyte(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 30)


@pytest.mark.reliability
def test_a_file_of_keys_that_comes_later(
    gateway: tuple[Running, httpx.Client], tmp_path: Path
) -> None:
    """Nobody is let in until it can be read; it is tried again though the configuration rests."""
    one, client = gateway
    keys, key = tmp_path / "keys", {"x-api-key": "first"}
    one.change(api_keys_file=str(keys))
    one.logs(f"API_KEYS_FILE={keys}: it can't be read (No such file or directory); nobody is let")
    for headers in ({}, key):
        check_envelope(one.post(client, **headers), 503, "SERVICE_UNAVAILABLE")
    keys.write_text(hashlib.sha256(b"first").hexdigest())
    until(lambda: one.post(client, **key).status_code == 200)
    assert one.post(client).status_code == 401
    one.file.write_text("profiles: [")  # which takes nothing from the other file
    one.logs("; all stays as it was", 1)
    keys.unlink()
    until(lambda: one.post(client, **key).status_code == 503)
    for odd in (os.mkfifo, Path.mkdir, _write_a_gigabyte):
        odd(keys)
        time.sleep(2)  # for several looks
        assert one.post(client, **key).status_code == 503
        keys.rmdir() if keys.is_dir() else keys.unlink()
    keys.write_text(hashlib.sha256(b"second").hexdigest())
    until(lambda: one.post(client, **{"x-api-key": "second"}).status_code == 200)


def test_a_file_of_keys_whose_time_is_kept(
    gateway: tuple[Running, httpx.Client], tmp_path: Path
) -> None:
    """As `rsync --times` and `cp --preserve` write it, of the same size."""
    one, client = gateway
    keys = tmp_path / "keys"
    keys.write_text(hashlib.sha256(b"first").hexdigest())
    before = keys.stat()
    one.change(api_keys_file=str(keys))
    assert one.post(client, **{"x-api-key": "first"}).status_code == 200
    time.sleep(4 * POLL_S)  # the file is read once more, as it was not looked at before
    keys.write_text(hashlib.sha256(b"second").hexdigest())
    os.utime(keys, ns=(before.st_atime_ns, before.st_mtime_ns))
    until(lambda: one.post(client, **{"x-api-key": "second"}).status_code == 200)
    assert one.post(client, **{"x-api-key": "first"}).status_code == 401


def test_rate_limit(gateway: tuple[Running, httpx.Client]) -> None:
    one, client = gateway
    one.write(rate_limit_per_s=0.01, rate_limit_burst=3)
    until(lambda: one.post(client).status_code == 429)


def test_log_level(gateway: tuple[Running, httpx.Client], triton: StandIn) -> None:
    """Which version answers is news, of level info."""
    one, client = gateway
    one.change(log_level="warning")
    triton.active = "v0.1.0"
    try:
        until(lambda: client.get(one.url + "/readyz").json()["version"] == "v0.1.0")
        assert "v0.1.0 answers" not in one.log.read_text()
        one.change(log_level="info")
    finally:
        triton.active = "v0.2.0"
    one.logs("v0.2.0 answers", times=2)


def test_what_cannot_change_and_what_a_variable_holds(
    gateway: tuple[Running, httpx.Client],
) -> None:
    one, client = gateway
    one.change(host="0.0.0.0", workers=3, max_waiting=1, calls_in_flight=3)
    said = one.log.read_text()
    assert "stays until a restart: host, workers\n" in said
    assert "calls_in_flight=3, " in said
    assert "max_waiting=" not in said  # MAX_WAITING is set
    assert one.post(client).status_code == 200


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("profiles: {production: {max_body_bytes: many}}", "max_body_bytes=many: must be a whole"),
        ("profiles: {production: {max_boby_bytes: 1}}", "no such setting: max_boby_bytes"),
        ("profiles: {staging: {}}", "there is no profile production: it has staging"),
        ("profiles: {production: {max_body", "line 1: "),
        ("", "the file must be a mapping"),
        (None, "it can't be read"),
    ],
)
def test_a_bad_file_changes_nothing(
    gateway: tuple[Running, httpx.Client], content: str | None, reason: str
) -> None:
    one, client = gateway
    before = len(one.log.read_text())
    if content is None:
        one.file.unlink()
    else:
        one.file.write_text(content)
    until(lambda: "; all stays as it was" in one.log.read_text()[before:])
    said = one.log.read_text()[before:]
    assert f"CONFIG_FILE={one.file}: " in said
    assert reason in said
    assert one.post(client).status_code == 200


def test_a_mounted_folder_whose_link_moves(triton: StandIn, tmp_path: Path) -> None:
    """As Kubernetes changes a ConfigMap: `..data` points to another folder, the file stays."""
    for number, limit in enumerate((2000, 20)):
        (tmp_path / f"..{number}").mkdir()
        content = {"defaults": PATIENT, "profiles": {"production": {"max_body_bytes": limit}}}
        (tmp_path / f"..{number}" / "carlarl.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "..data").symlink_to("..0")
    (tmp_path / "carlarl.yaml").symlink_to("..data/carlarl.yaml")
    with running(tmp_path, TRITON_URL=triton.url) as one, httpx.Client() as client:
        assert one.post(client).status_code == 200
        (tmp_path / "..next").symlink_to("..1")
        (tmp_path / "..next").replace(tmp_path / "..data")
        until(lambda: one.post(client).status_code == 413)


def test_every_worker_rereads_on_sighup(triton: StandIn, tmp_path: Path) -> None:
    """The file is written so that a look does not see it, and told of by a signal."""
    file = tmp_path / "carlarl.yaml"
    file.write_text("profiles: {production: {max_body_bytes: 2000}}")
    with running(tmp_path, TRITON_URL=triton.url, WORKERS="2") as one:
        until(lambda: one.log.read_text().count("Application startup complete") == 2)
        old = file.stat()
        file.write_text("profiles: {production: {max_body_bytes: 20  }}")
        os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))
        one.process.send_signal(signal.SIGHUP)
        one.logs("now in force: max_body_bytes=20", times=2)
        assert one.process.poll() is None
        for _ in range(8):
            assert httpx.post(one.url + "/predict", json=BODY).status_code == 413
        assert one.log.read_text().count("Started server process") == 2

        # A worker that comes later has what the file says now, not what its parent read.
        children = psutil.Process(one.process.pid).children()
        next(child for child in children if "spawn_main" in " ".join(child.cmdline())).kill()
        one.logs("now in force: max_body_bytes=20", times=3)
        one.logs("Application startup complete", times=3)
        for _ in range(8):
            assert httpx.post(one.url + "/predict", json=BODY).status_code == 413


def test_other_machines_and_no_key(tmp_path: Path) -> None:
    (tmp_path / "carlarl.yaml").write_text("profiles: {production: {host: 0.0.0.0}}")
    away = f"http://127.0.0.1:{held_port()}"
    warning = "HOST=0.0.0.0 lets other machines in and no API key is asked for: set API_KEYS_FILE"
    with running(tmp_path, "/livez", TRITON_URL=away) as one:
        assert one.log.read_text().count(warning) == 1
        port = int(one.url.rpartition(":")[2])
        assert socket.create_connection(("127.0.0.1", port)).close() is None
    keys = tmp_path / "keys"
    keys.write_text(hashlib.sha256(b"k").hexdigest())
    with running(tmp_path, "/livez", TRITON_URL=away, API_KEYS_FILE=str(keys)) as one:
        assert "lets other machines in" not in one.log.read_text()
