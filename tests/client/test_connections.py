"""How the service is reached: over TLS, through proxies, by many threads."""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from carlarl_client import Action, ConnectionFailed, PolicyClient, ResourceExhausted
from carlarl_client.types import Prediction
from tests.client.faulty import Peer, answer_to, faulty
from tests.client.kinds import KINDS, SEEN
from tests.gateway import certificates


def good(peer: Peer) -> None:
    while True:
        peer.send(answer_to(peer.request()))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> certificates.Certificates:
    return certificates.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def context(made: certificates.Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    return context


@pytest.fixture
def trusted(made: certificates.Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(made.authority))


def https(url: str) -> str:
    return url.replace("http:", "https:")


@KINDS
def test_a_kept_connection_over_tls(
    context: ssl.SSLContext, trusted: ssl.SSLContext, kind: Any
) -> None:
    with faulty(good, context) as service:
        outcomes = kind(https(service.url), verify=trusted).predict_all([SEEN] * 3, seed=1)
        assert all(isinstance(outcome, Prediction) for outcome, _ in outcomes)
        assert len(service.connections) == 1
        with pytest.raises(ConnectionFailed, match="certificate") as caught:
            kind(https(service.url), retries=0).predict(SEEN)
    assert caught.value.unsent


@KINDS
def test_a_proxy_passes_requests_on(kind: Any) -> None:
    def forward(peer: Peer) -> None:
        while True:
            request = peer.request()
            assert request.headers["host"] == "car.example"
            told = request.headers["proxy-authorization"].split()[1]
            assert base64.b64decode(told) == b"me:hush"
            peer.send(answer_to(request))

    with faulty(forward) as proxy:
        by = proxy.url.replace("http://", "http://me:hush@")
        assert kind("http://car.example", proxy=by).predict(SEEN).version == "v0.2.0"


@KINDS
@pytest.mark.parametrize("over_tls", [False, True])
def test_a_proxy_tunnels_tls(
    context: ssl.SSLContext,
    trusted: ssl.SSLContext,
    kind: Any,
    over_tls: bool,
    made: certificates.Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if over_tls:  # the proxy's own certificate is looked up where httpcore looks
        monkeypatch.setattr("certifi.where", lambda: str(made.authority))

    def tunnel(peer: Peer) -> None:
        peer.request()
        with socket.create_connection(("127.0.0.1", service.port)) as onward:
            peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=pump, args=[onward, peer.socket], daemon=True)
            back.start()
            pump(peer.socket, onward)

    with (
        faulty(good, context) as service,
        faulty(tunnel, context if over_tls else None) as proxy,
    ):
        by = https(proxy.url) if over_tls else proxy.url
        client = kind(https(service.url), proxy=by, verify=trusted)
        outcomes = client.predict_all([SEEN] * 2, seed=1)
        assert all(isinstance(outcome, Prediction) for outcome, _ in outcomes), outcomes
        assert len(service.connections) == 1


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)


def test_threads_share_a_client() -> None:
    failures: list[Any] = []

    def drive(number: int) -> None:
        seen = {**SEEN, "steering": number / 100}
        for _ in range(20):
            action = client.predict(seen, deterministic=True).action
            if action != Action(0.5, 0.0, number / 100):
                failures.append(action)

    with faulty(good) as service, PolicyClient(service.url, timeout=20.0) as client:
        threads = [threading.Thread(target=drive, args=[number]) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(service.connections) <= 16
    assert not failures


@KINDS
def test_an_answer_to_a_body_still_on_its_way_is_read(kind: Any) -> None:
    def refuse(peer: Peer) -> None:
        body = b'{"error": "RESOURCE_EXHAUSTED", "message": "full", "details": {}}'
        head = f"HTTP/1.1 429 Full\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        peer.send(head.encode() + body)
        peer.socket.shutdown(socket.SHUT_WR)
        peer.wait(0.3)

    with faulty(refuse) as service, pytest.raises(ResourceExhausted):
        kind(service.url, retries=0).predict({**SEEN, "sensors": "x" * 200_000}, seed=1)


TYPED = """
import numpy as np
from carlarl_client import Observation, ObservationDict, PolicyClient

def ask(client: PolicyClient, seen: np.ndarray[tuple[int], np.dtype[np.float32]]) -> None:
    client.predict(Observation(np.float32(25.5), np.array(0.1), seen))
    client.predict(Observation(seen[0], 0, [np.float64(1.0), 1, 2.0]))
    one: ObservationDict = {"speed": np.float32(1.0), "steering": 0.1, "sensors": seen}
    client.predict([one, one])
    client.predict({"speed": 1.0, "steering": 0.1, "sensors": seen})
    client.predict(Observation("fast", 0.0, seen))  # type: ignore[arg-type]
"""


def test_numpy_s_arrays_and_numbers_are_of_the_right_type(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api", reason="types were not checked: mypy is of extra dev")
    (tmp_path / "typed.py").write_text(TYPED)
    told, failed, status = api.run(
        ["--strict", "--cache-dir", str(tmp_path / "cache"), str(tmp_path / "typed.py")]
    )
    assert status == 0, told + failed
