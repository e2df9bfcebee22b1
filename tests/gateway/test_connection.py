"""What a connection goes through: requests sent ahead, in pieces, and callers that leave."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx

from tests.gateway.stand_in import StandIn

OBSERVATION = {"speed": 25.5, "steering": 0.1, "sensors": [0.8, 0.2, 0.5, 0.9, 0.1]}


def body(**fields: Any) -> bytes:
    return json.dumps({"observations": [OBSERVATION], **fields}).encode()


def request(content: bytes, *headers: str, start: str = "POST /predict HTTP/1.1") -> bytes:
    head = [start, "Host: x", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + content


def exchange(url: str, *pieces: bytes, answers: int = 1, pause: float = 0.0) -> bytes:
    """Send pieces over one connection; give all that came until so many answers did."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=10) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        received = b""
        while received.count(b"HTTP/1.1 ") < answers or not received.endswith(b"}"):
            part = connection.recv(65536)
            if not part:
                break
            received += part
    return received


def test_pipelined_requests_are_answered_in_order(gateway_url: str) -> None:
    pieces = [
        request(body(deterministic=True), "X-Request-ID: a"),
        request(body(deterministic=True), "X-Request-ID: b", "Origin: http://example.org"),
        request(b"{", "X-Request-ID: c"),
        request(body(deterministic=True), "X-Request-ID: d"),
    ]
    for split in (pieces, [b"".join(pieces)], [b"".join(pieces[:2]), b"".join(pieces[2:])]):
        received = exchange(gateway_url, *split, answers=4)
        ids = [
            line[-1:]
            for line in received.lower().split(b"\r\n")
            if line.startswith(b"x-request-id")
        ]
        assert ids == [b"a", b"b", b"c", b"d"]
        assert received.count(b"HTTP/1.1 200") == 3


def test_a_request_in_pieces(gateway_url: str) -> None:
    data = request(body(deterministic=True))
    whole = exchange(gateway_url, data)
    for cut in (1, 10, data.index(b"\r\n\r\n") + 2, len(data) - 1):
        pieces = exchange(gateway_url, data[:cut], data[cut:], pause=0.05)
        assert (
            pieces.rpartition(b"\r\n")[2].split(b'"version"')[0]
            == (whole.rpartition(b"\r\n")[2].split(b'"version"')[0])
        )


def test_who_hangs_up_while_waiting_is_never_sent(
    run_gateway: Callable[..., str], stand_in: StandIn
) -> None:
    """On a real connection; only the stand-in can be made to keep others waiting."""
    url = run_gateway(TRITON_URL=stand_in.url, CALLS_IN_FLIGHT="1", REQUEST_TIMEOUT_MS="700")
    stand_in.mode = "hang"
    stand_in.calls.clear()
    address = httpx.URL(url)
    connections = [socket.create_connection((address.host, address.port)) for _ in range(4)]
    for connection, (speed, headers) in zip(
        connections, [(1, ()), (2, ()), (3, ("Origin: http://x",)), (4, ())], strict=True
    ):
        seen = {**OBSERVATION, "speed": speed}
        connection.sendall(request(json.dumps({"observations": [seen]}).encode(), *headers))
        time.sleep(0.05)
    connections[1].close()
    connections[2].close()
    time.sleep(0.1)
    stand_in.mode = "ok"
    connections[3].settimeout(5)
    assert b"HTTP/1.1 " in connections[3].recv(4096)
    sent = [row for call in stand_in.calls for row in call["speed"][:, 0].tolist()]
    assert 1 in sent
    assert not {2, 3} & set(sent)
    for connection in connections:
        connection.close()
