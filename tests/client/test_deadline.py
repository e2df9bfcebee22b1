"""A call ends at its deadline, whatever the service does."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from carlarl_client import DeadlineExceeded, PolicyClient, PolicyError
from tests.client.faulty import Peer, answer_to, faulty
from tests.client.kinds import KINDS, SEEN
from tests.client.scripted import silent
from tests.gateway import certificates

DEADLINE_S, AT_MOST_S = 0.2, 0.25


def in_time(
    client: Any, seen: Any = SEEN, expected: type[PolicyError] = DeadlineExceeded
) -> PolicyError:
    """Ask several times, and look at the shortest: a busy machine may delay some."""
    outcomes = client.predict_all([seen] * 4, seed=1, timeout=DEADLINE_S)
    for error, _ in outcomes:
        assert isinstance(error, expected), error
    error, seconds = min(outcomes, key=lambda outcome: outcome[1])
    assert seconds <= AT_MOST_S
    assert isinstance(error, PolicyError)
    return error


def two_parts(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\n")
    peer.wait(0.15)
    peer.send(b"Content-Length: 5\r\n")
    peer.wait(5.0)


def dripped_head(peer: Peer) -> None:
    peer.drip(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 200, 0.02)


def interim_answers(peer: Peer) -> None:
    for _ in range(100):
        peer.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        peer.wait(0.02)


def flood_of_interim_answers(peer: Peer) -> None:
    while not peer.ended.is_set():
        peer.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 1000)


def dripped_chunk_extension(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;")
    peer.drip(b"x" * 250, 0.02)


def dripped_body(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 250\r\n\r\n")
    peer.drip(b" " * 250, 0.02)


def nothing(peer: Peer) -> None:
    peer.wait(5.0)


@KINDS
@pytest.mark.parametrize(
    "serve",
    [
        two_parts,
        dripped_head,
        interim_answers,
        flood_of_interim_answers,
        dripped_chunk_extension,
        dripped_body,
        nothing,
    ],
    ids=lambda serve: serve.__name__,
)
def test_a_slow_service(serve: Callable[[Peer], None], kind: Any) -> None:
    def answer(peer: Peer) -> None:
        peer.request()
        serve(peer)

    with faulty(answer) as service:
        error = in_time(kind(service.url))
    assert error.outage
    assert error.request_id  # by which the service's log knows it


@KINDS
def test_a_service_that_does_not_read(kind: Any) -> None:
    seen = {**SEEN, "sensors": "x" * 8_000_000}  # more than the buffers of both ends hold
    with faulty(nothing) as service:
        in_time(kind(service.url), seen)


@KINDS
def test_an_endless_answer(kind: Any) -> None:
    def flood(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while not peer.ended.is_set():
            peer.send(b"[" * 65536)

    with faulty(flood) as service:
        error = in_time(kind(service.url), expected=PolicyError)
    assert error.outage


@KINDS
@pytest.mark.parametrize("serve", [nothing, dripped_head], ids=["handshake", "head"])
def test_over_tls(serve: Callable[[Peer], None], kind: Any, tmp_path: Path) -> None:
    made = certificates.make(tmp_path)
    context = None
    if serve is dripped_head:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(made.certificate, made.key)
    trusted = ssl.create_default_context(cafile=str(made.authority))
    with faulty(serve, context) as service:
        client = kind(service.url.replace("http", "https"), verify=trusted)
        in_time(client)


@KINDS
def test_a_proxy_that_says_nothing(kind: Any) -> None:
    with silent() as proxy:
        client = kind("https://car.example", proxy=proxy)
        in_time(client)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the system's look-up take its time, or find other addresses."""
    real = socket.getaddrinfo

    def change(delay_s: float = 0.0, found: list[str] | None = None) -> None:
        def look_up(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
            if host not in ("car.example", b"car.example"):
                return real(host, port, *rest, **options)
            time.sleep(delay_s)
            answers = [real(one, port, *rest, **options) for one in found or ["127.0.0.1"]]
            return [one for answer in answers for one in answer]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return change


def good(peer: Peer) -> None:
    while True:
        peer.send(answer_to(peer.request()))


@KINDS
def test_slow_names(kind: Any, names: Callable[..., None]) -> None:
    names(delay_s=1.5)
    with faulty(good) as service:
        client = kind(f"http://car.example:{service.port}")
        in_time(client)


def test_a_name_that_was_slow_is_known_to_a_later_call(names: Callable[..., None]) -> None:
    """Else a caller whose deadline is shorter than the look-up would never get an answer."""
    names(delay_s=0.3)
    with (
        faulty(good) as service,
        PolicyClient(f"http://car.example:{service.port}", timeout=0.1) as client,
    ):
        with pytest.raises(DeadlineExceeded):
            client.predict(SEEN, deterministic=True)
        end = time.monotonic() + 20.0
        while True:
            try:
                assert client.predict(SEEN, deterministic=True).version == "v0.2.0"
                break
            except DeadlineExceeded:
                assert time.monotonic() < end


@contextmanager
def dead(addresses: list[str]) -> Iterator[int]:
    """Return a port at which these addresses take no connection, nor refuse one: a full backlog."""
    with ExitStack() as stack:
        first = stack.enter_context(socket.socket())
        first.bind((addresses[0], 0))
        port: int = first.getsockname()[1]
        listeners = [first]
        for address in addresses[1:]:
            listeners.append(stack.enter_context(socket.socket()))
            listeners[-1].bind((address, port))
        for listener in listeners:
            listener.listen(0)
            for _ in range(4):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
        yield port


@KINDS
def test_four_dead_addresses(kind: Any, names: Callable[..., None]) -> None:
    addresses = [f"127.0.0.{last}" for last in (2, 3, 4, 5)]
    names(found=addresses)
    with dead(addresses) as port:
        client = kind(f"http://car.example:{port}")
        in_time(client)


@KINDS
def test_a_dead_address_leaves_time_for_the_next(kind: Any, names: Callable[..., None]) -> None:
    names(found=["127.0.0.2", "127.0.0.1"])
    with dead(["127.0.0.2"]) as port, faulty(good, port=port) as service:
        client = kind(f"http://car.example:{service.port}")
        assert client.predict(SEEN, deterministic=True, timeout=4.0).version == "v0.2.0"
