"""The connections of streams: who gets one, what ends it, and that the others do not notice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.gateway.certificates import make
from tests.gateway.processes import (
    OBSERVATION,
    ROOT,
    check_envelope,
    free_port,
    gateway_process,
    predict,
    status,
    until,
)
from tests.gateway.stand_in import StandIn
from tests.gateway.streams import metric, open_stream, stream

STEP = json.dumps({"stepId": 1, "observation": OBSERVATION, "deterministic": True}).encode()
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
UPGRADE = (
    b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
HASTY = "import gateway.stream.connection as w; w.PING_S, w.SLOW_S = 1.5, 2.0"
UNCOUNTED = f"{HASTY}; import gateway.stream.session as s; s.IDLE_FRAMES_PER_S = 1_000_000"


@pytest.fixture(scope="module")
def hasty(triton_http: str) -> Iterator[str]:
    """URL of a gateway whose patience with streams is short."""
    with gateway_process(before=HASTY, TRITON_URL=f"http://{triton_http}") as url:
        yield url


@pytest.fixture(scope="module")
def uncounted(triton_http: str) -> Iterator[str]:
    """URL of such a gateway that lets any number of frames without an action pass."""
    with gateway_process(before=UNCOUNTED, TRITON_URL=f"http://{triton_http}") as url:
        yield url


class Raw:
    """A WebSocket client that may do what none should."""

    def __init__(self, url: str, room: int | None = None) -> None:
        address = httpx.URL(url)
        self.socket = socket.socket()
        if room is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        self.socket.settimeout(60)
        self.socket.connect((address.host, address.port))
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.socket.close()

    def ask(self, request: bytes) -> bytes:
        """Send a request and give the head of its answer, whose body is read."""
        self.socket.sendall(request)
        return self.answer()

    def answer(self) -> bytes:
        head = b"".join(iter(self._file.readline, b"\r\n"))
        if length := re.search(rb"(?i)content-length: (\d+)", head):
            self._file.read(int(length[1]))
        return head

    def send(self, opcode: int, data: bytes, fin: bool = True) -> None:
        self.socket.sendall(frame(opcode, data, fin))

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Return opcode and content of what comes, until the gateway ends the connection."""
        while start := self._file.read(2):
            length = start[1]
            if length == 126:
                (length,) = struct.unpack("!H", self._file.read(2))
            yield start[0] & 15, self._file.read(length)

    def close(self) -> tuple[int, str]:
        """Read all that comes, and give code and reason of the last frame, which is a close."""
        *_, (opcode, data) = self.frames()
        assert opcode == CLOSE
        return int.from_bytes(data[:2]), data[2:].decode()


@contextlib.contextmanager
def upgraded(url: str) -> Iterator[Raw]:
    with Raw(url) as raw:
        assert raw.ask(UPGRADE).startswith(b"HTTP/1.1 101")
        yield raw


def frame(opcode: int, data: bytes, fin: bool = True) -> bytes:
    """A masked frame, with a mask of zeros."""
    size = bytes([128 | len(data)]) if len(data) < 126 else struct.pack("!BH", 254, len(data))
    return bytes([(128 if fin else 0) | opcode]) + size + bytes(4) + data


def leave_unread(raw: Raw) -> None:
    """Cause 20 MB of answers, and read none."""
    wrong = json.dumps({"x" * 200: 1}).encode()
    raw.socket.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        for _ in range(400):
            raw.socket.sendall(frame(TEXT, wrong) * 100)


def refusal(url: str, **options: Any) -> httpx.Response:
    """Return the answer to an upgrade that is refused, as the answer of a request."""
    with pytest.raises(InvalidStatus) as refused:
        open_stream(url, **options)
    found = refused.value.response
    return httpx.Response(
        found.status_code, headers=[*found.headers.raw_items()], content=bytes(found.body)
    )


def close_code(vehicle: Any) -> int:
    with contextlib.suppress(ConnectionClosed):
        for _ in vehicle.connection:
            pass
    code: int = vehicle.connection.close_code
    return code


# Who gets one.


def test_keys(
    run_gateway: Callable[..., str], stand_in: StandIn, tmp_path: Path, capfd: Any
) -> None:
    key, other = "a-good-key_1", "another"
    file = tmp_path / "keys"
    file.write_text("".join(hashlib.sha256(k.encode()).hexdigest() + "\n" for k in (key, other)))
    url = run_gateway("/livez", TRITON_URL=stand_in.url, API_KEYS_FILE=str(file), LOG_LEVEL="debug")
    until(lambda: httpx.get(url + "/readyz").status_code == 200)
    check_envelope(refusal(url), 401, "UNAUTHORIZED")
    for wrong in ({"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}):
        check_envelope(refusal(url, additional_headers=wrong), 401, "UNAUTHORIZED")
    check_envelope(
        refusal(url, subprotocols=["carlarl.v1", "carlarl.key.wrong"]), 401, "UNAUTHORIZED"
    )
    for right in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}):
        with stream(url, additional_headers=right) as vehicle:
            assert "action" in vehicle.ask(1)
    browser = ["carlarl.v1", f"carlarl.key.{key}"]
    with Raw(url) as raw:  # in two lines, which are one list
        lines = b"".join(b"Sec-WebSocket-Protocol: %s\r\n" % one.encode() for one in browser)
        answer = raw.ask(UPGRADE[:-2] + lines + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 101")
        assert b"\r\nsec-websocket-protocol: carlarl.v1\r\n" in answer
    with (
        stream(url, subprotocols=browser) as vehicle,
        stream(url, additional_headers={"X-API-Key": other}) as staying,
    ):
        assert vehicle.connection.subprotocol == "carlarl.v1"
        assert "action" in vehicle.ask(1)
        file.write_text(hashlib.sha256(other.encode()).hexdigest())
        until(lambda: refusal_status(url, key) == 401)
        got = vehicle.ask(2)
        assert (got["stepId"], got["error"]) == (2, "UNAUTHORIZED")
        assert close_code(vehicle) == 1008
        assert "action" in staying.ask(2)
    logged = capfd.readouterr().err
    assert "DEBUG" in logged
    assert key not in logged


def refusal_status(url: str, key: str) -> int:
    try:
        with open_stream(url, additional_headers={"X-API-Key": key}):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def test_origins(run_gateway: Callable[..., str], stand_in: StandIn) -> None:
    url = run_gateway(TRITON_URL=stand_in.url, CORS_ORIGINS="https://cars.example")
    for origin in ("https://evil.example", "null", url + ".evil.example", "https://cars.example:1"):
        refused = refusal(url, origin=origin, additional_headers={"X-Request-ID": "mine"})
        check_envelope(refused, 403, "HTTP_ERROR")
        assert refused.headers["x-request-id"] == "mine"
    for origin in ("https://cars.example", url, url.replace("http:", "https:"), None):
        with stream(url, origin=origin) as vehicle:
            assert "action" in vehicle.ask(1)


def test_a_callers_rate_counts(run_gateway: Callable[..., str], stand_in: StandIn) -> None:
    limits = {"RATE_LIMIT_PER_S": "0.1", "RATE_LIMIT_BURST": "5"}
    url = run_gateway(TRITON_URL=stand_in.url, **limits)
    with open_stream(url) as connection:
        got = []
        for _ in range(6):
            connection.send(STEP.decode())
            got.append(json.loads(connection.recv()))
    assert ["action" in one for one in got] == [True] * 4 + [False] * 2
    assert got[-1]["error"] == "RESOURCE_EXHAUSTED"
    assert got[-1]["details"]["retry_after_s"] >= 1
    check_envelope(refusal(url), 429, "RESOURCE_EXHAUSTED")


def test_connections_beyond_the_limit(run_gateway: Callable[..., str], stand_in: StandIn) -> None:
    url = run_gateway(TRITON_URL=stand_in.url, MAX_CONNECTIONS="2")
    with open_stream(url), open_stream(url) as second:
        check_envelope(refusal(url), 503, "SERVICE_UNAVAILABLE")
        check_envelope(httpx.get(url + "/versions"), 503, "SERVICE_UNAVAILABLE")
        assert status(url + "/livez") == 200
        second.close()
        until(lambda: status(url + "/versions") == 200)


@pytest.mark.parametrize(
    "headers",
    [
        ["Sec-WebSocket-Key: short", "Sec-WebSocket-Version: 13"],
        ["Sec-WebSocket-Version: 13"],
        ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 8"],
        ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="],
    ],
)
def test_bad_upgrades(gateway_url: str, headers: list[str]) -> None:
    more = dict(line.split(": ") for line in headers)
    wish = {"Connection": "Upgrade", "Upgrade": "websocket"}
    check_envelope(httpx.get(gateway_url + "/stream", headers={**wish, **more}), 400, "HTTP_ERROR")


def test_requests_that_are_no_upgrade(gateway_url: str) -> None:
    answer = httpx.get(gateway_url + "/stream")
    check_envelope(answer, 426, "HTTP_ERROR")
    assert answer.headers["upgrade"] == "websocket"
    check_envelope(httpx.post(gateway_url + "/stream"), 405, "HTTP_ERROR")
    wish = {"Connection": "Upgrade", "Upgrade": "websocket"}
    assert httpx.get(gateway_url + "/livez", headers=wish).json() == {"status": "alive"}
    check_envelope(httpx.get(gateway_url + "/nope", headers=wish), 404, "HTTP_ERROR")


def test_other_paths_are_not_upgraded(
    run_gateway: Callable[..., str], stand_in: StandIn, capfd: Any
) -> None:
    url = run_gateway(TRITON_URL=stand_in.url)
    for path in (b"/stream/", b"//stream", b"/nope"):
        with Raw(url) as raw:
            assert raw.ask(UPGRADE.replace(b"/stream", path)).startswith(b"HTTP/1.1 404")
    logged = capfd.readouterr().err
    assert "Application startup" in logged
    assert "upgrade" not in logged
    assert "WebSocket" not in logged


def test_an_upgrade_on_a_connection_that_was_used(gateway_url: str) -> None:
    """No timer of the requests before ends the stream."""
    body = json.dumps({"observations": [OBSERVATION]}).encode()
    post = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with Raw(gateway_url) as raw:
        for request in (b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", post + body):
            assert raw.ask(request).startswith(b"HTTP/1.1 200")
        assert raw.ask(UPGRADE).startswith(b"HTTP/1.1 101")
        time.sleep(5.5)  # longer than an idle connection may be, and than a head may take
        raw.send(TEXT, STEP)
        assert b'"action"' in next(raw.frames())[1]


# What ends it.


def test_who_never_reads_is_cut_off(uncounted: str) -> None:
    with stream(uncounted) as other, Raw(uncounted, room=4096) as slow:
        slow.socket.sendall(UPGRADE)
        leave_unread(slow)
        assert "action" in other.ask(1)
        time.sleep(2.5)
        slow.socket.settimeout(60)
        assert slow.answer().startswith(b"HTTP/1.1 101")
        assert slow.close() == (1008, "answers are not read")
        assert "action" in other.ask(2)


def test_who_never_reads_at_all_is_dropped(uncounted: str) -> None:
    with Raw(uncounted, room=4096) as slow:
        slow.socket.sendall(UPGRADE)
        leave_unread(slow)
        until(lambda: metric(uncounted, "carla_rl_streams") == 0)


@pytest.mark.parametrize(
    "burst",
    [
        frame(TEXT, b"{"),
        frame(TEXT, STEP) * 20,
        frame(TEXT, b"{", False) + frame(0, b"", False) * 3000,
        (frame(TEXT, b" ", False) + frame(0, b"", False) * 50 + frame(0, STEP)) * 20,
        frame(PING, b"") * 20,
        frame(PONG, b"") * 20,
    ],
    ids=["rubbish", "steps", "fragments", "fragments of steps", "pings", "pongs"],
)
def test_who_floods_is_cut_off(hasty: str, burst: bytes) -> None:
    with upgraded(hasty) as raw:
        with contextlib.suppress(OSError):
            for _ in range(2000):
                raw.socket.sendall(burst)
        assert raw.close() == (1008, "too many frames that get no action")
    assert predict(hasty).status_code == 200


@pytest.mark.parametrize("start", [frame(TEXT, STEP)[:-5], frame(TEXT, STEP[:9], fin=False)])
def test_a_message_must_not_take_long(hasty: str, start: bytes) -> None:
    with upgraded(hasty) as raw:
        raw.socket.sendall(start)
        assert raw.close() == (1008, "a message came too slowly")


def test_a_ping_in_two_pieces_is_no_slow_message(hasty: str) -> None:
    ping = frame(PING, b"here")
    with upgraded(hasty) as raw:
        raw.socket.sendall(ping[:5])
        time.sleep(0.1)
        raw.socket.sendall(ping[5:])
        frames = raw.frames()
        assert next(frames) == (PONG, b"here")
        for _ in range(2):  # 3 s, longer than a message may take
            assert next(frames) == (PING, b"")
            raw.send(PONG, b"")
        raw.send(TEXT, STEP)
        assert b'"action"' in next(frames)[1]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, STEP)[:1] + b"\x05hello", 1002),  # not masked
        (frame(3, b""), 1002),
        (frame(0, b""), 1002),
        (frame(TEXT | 64, STEP), 1002),
        (frame(CLOSE, struct.pack("!H", 1000)), 1000),
        (frame(CLOSE, struct.pack("!H", 999)), 1002),
        (frame(TEXT, b'{"stepId": 1, "\xff": 1}'), 1007),
        (frame(TEXT, b"\xe2\x82", fin=False) + frame(0, b""), 1007),
    ],
)
def test_the_protocol_is_kept(gateway_url: str, data: bytes, code: int) -> None:
    with upgraded(gateway_url) as raw:
        raw.socket.sendall(data)
        assert raw.close()[0] == code


def test_peers_that_do_not_answer_pings(hasty: str) -> None:
    with upgraded(hasty) as silent, upgraded(hasty) as alive:
        for _ in range(2):
            assert next(alive.frames()) == (PING, b"")
            alive.send(PONG, b"")
        assert list(silent.frames()) == [(PING, b"")]
        alive.send(PING, b"here")
        assert (PONG, b"here") in alive.frames()
        alive.send(TEXT, STEP)
        assert any(b'"action"' in data for _, data in alive.frames())


def test_large_frames(lone_gateway: str) -> None:
    """MAX_BODY_BYTES is 2000 here."""
    large = b" " * 2000
    with stream(lone_gateway) as vehicle:
        vehicle.connection.send(large.decode())
        assert vehicle.receive()["error"] == "VALIDATION_ERROR"
        vehicle.connection.send((large + b" ").decode())
        assert close_code(vehicle) == 1009
    with stream(lone_gateway) as vehicle:
        with contextlib.suppress(ConnectionClosed):
            vehicle.connection.send(["x" * 1500, "x" * 1500])
        assert close_code(vehicle) == 1009
    with stream(lone_gateway) as vehicle:
        with contextlib.suppress(ConnectionClosed):
            vehicle.connection.send(b"x" * 30_000_000)
        assert close_code(vehicle) == 1009
        assert "retry_after_s" in json.dumps(one_step(lone_gateway))


def one_step(url: str) -> dict[str, Any]:
    with stream(url) as vehicle:
        return vehicle.ask(1)


def test_over_tls(run_gateway: Callable[..., str], stand_in: StandIn, tmp_path: Path) -> None:
    files = make(tmp_path)
    port = free_port()
    url = f"https://127.0.0.1:{port}"
    context = ssl.create_default_context(cafile=str(files.authority))
    variables = {"SSL_CERTFILE": str(files.certificate), "SSL_KEYFILE": str(files.key)}
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway"],
        cwd=ROOT,
        env={
            **os.environ,
            "PORT": str(port),
            "TRITON_URL": stand_in.url,
            "MAX_BODY_BYTES": "2000",
            "CORS_ORIGINS": "https://cars.example",
            **variables,
        },
    )
    try:

        def answers() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(url + "/readyz", verify=context).status_code == 200
            return False

        until(answers)
        with stream(url, ssl=context, origin=url) as vehicle:
            assert vehicle.connection.response is not None
            assert "strict-transport-security" in vehicle.connection.response.headers
            assert "action" in vehicle.ask(1)
            vehicle.connection.send("x" * 2001)
            assert close_code(vehicle) == 1009
        plain = url.replace("https:", "http:")
        check_envelope(refusal(url, ssl=context, origin=plain), 403, "HTTP_ERROR")
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize("limit", ["30", "0"])
def test_a_stop(limit: str) -> None:
    """What came is answered, then each stream is told; where there is no time it ends as it is."""
    stand_in = StandIn()
    stand_in.start()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    variables = {"PORT": str(port), "TRITON_URL": stand_in.url, "REQUEST_TIMEOUT_MS": "60000"}
    variables |= {"SHUTDOWN_NOTICE_S": "0.5", "SHUTDOWN_TIMEOUT_S": limit}
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway"], cwd=ROOT, env={**os.environ, **variables}
    )
    try:
        until(lambda: status(url + "/readyz") == 200)
        with stream(url) as busy, stream(url) as idle:
            assert "action" in idle.ask(1)
            stand_in.mode = "held"
            busy.send(1)
            until(lambda: len(stand_in.calls) == 2)
            busy.send(2)
            assert busy.connection.ping().wait(60)
            process.send_signal(signal.SIGTERM)
            until(lambda: status(url + "/readyz") == 503)
            assert idle.connection.ping().wait(60)  # served until the notice is over
            assert close_code(idle) == 1001
            if limit == "0":
                with contextlib.suppress(ConnectionClosed):
                    while "action" not in busy.receive():
                        pass
                    pytest.fail("an action came after the end")
            else:
                stand_in.go.set()
                assert [busy.receive()["stepId"] for _ in range(2)] == [1, 2]
                assert close_code(busy) == 1001
        assert process.wait(30) == 0
    finally:
        stand_in.go.set()
        process.kill()
        process.wait(20)
        stand_in.stop()
