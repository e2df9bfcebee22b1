"""What is no valid answer is an outage, and every failure is a `PolicyError`."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from carlarl_client import (
    Action,
    AsyncPolicyClient,
    BadAnswer,
    ClientClosed,
    PolicyClient,
    PolicyError,
)
from tests.client.faulty import Peer, faulty
from tests.client.kinds import KINDS, SEEN
from tests.client.scripted import ACTION, GOOD, Answer, Scripted, error, scripted

ENVELOPE: dict[str, Any] = {"error": "TEAPOT", "message": "so it is", "details": {}}


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted() as server:
        yield server


def action(**changed: Any) -> dict[str, Any]:
    return {**GOOD, "actions": [{**ACTION, **changed}]}


NO_PREDICTIONS: dict[str, Any] = {
    "html": b"<html>",
    "a list": [1],
    "no action": {**GOOD, "actions": []},
    "an action too many": {**GOOD, "actions": [ACTION, ACTION]},
    "other names": {**GOOD, "actions": [{"gas": 1.0}]},
    "actions by name": {**GOOD, "actions": {"0": ACTION}},
    "an action as a list": {**GOOD, "actions": [[0.5, 0.0, 0.0]]},
    "NaN": action(steer=float("nan")),
    "infinity": action(throttle=float("inf")),
    "a number that is too large": json.dumps(GOOD).replace("-0.25", "-1e999").encode(),
    "7.0": action(throttle=7.0),
    "a brake below 0": action(brake=-0.01),
    "a steer below -1": action(steer=-1.01),
    "a word": action(throttle="full"),
    "null": action(brake=None),
    "a Boolean": action(throttle=True),
    "a number for a version": {**GOOD, "version": 2},
    "no version": {k: v for k, v in GOOD.items() if k != "version"},
    "another version": {**GOOD, "version": "v0.1.0"},
    "sampled, asked for the mean": {**GOOD, "deterministic": False, "seed": 1},
    "a word for deterministic": {**GOOD, "deterministic": "true"},
    "a word for a time": {**GOOD, "timingMs": "fast"},
    "a word for states": {**GOOD, "states": "abc"},
    "null for states": {**GOOD, "states": None},
    "no state": {**GOOD, "states": []},
    "a state too many": {**GOOD, "states": ["abc", "abc"]},
    "a number for a state": {**GOOD, "states": [1]},
    "deeply nested": b"[" * 200_000,
    "a very long number": b'{"actions": ' + b"1" * 100_000 + b"}",
    "no UTF-8": b'{"version": "\xff"}',
    "compressed": gzip.compress(json.dumps(GOOD).encode()),
    "too long": b'{"version": "' + b"x" * 4_000_000 + b'"}',
}


@KINDS
@pytest.mark.parametrize("content", NO_PREDICTIONS.values(), ids=NO_PREDICTIONS)
def test_no_prediction_is_an_outage(server: Scripted, kind: Any, content: Any) -> None:
    server.answers = [Answer(200, content)]
    with pytest.raises(BadAnswer) as caught:
        kind(server.url).predict(SEEN, deterministic=True, version="v0.2.0")
    assert caught.value.outage
    assert caught.value.request_id


@KINDS
@pytest.mark.parametrize("seed", [8, "7", None])
def test_another_seed_is_an_outage(server: Scripted, kind: Any, seed: Any) -> None:
    content = {**GOOD, "deterministic": False, "seed": seed}
    server.answers = [Answer(content=content)]
    with pytest.raises(BadAnswer, match="no prediction"):
        kind(server.url).predict(SEEN, seed=7)


@KINDS
@pytest.mark.parametrize("status", [201, 204, 206, 301, 302, 307])
def test_a_prediction_with_another_status_is_an_outage(
    server: Scripted, kind: Any, status: int
) -> None:
    server.answers = [Answer(status, GOOD, {"Location": "/elsewhere"})]
    with pytest.raises(PolicyError) as caught:
        kind(server.url, retries=0).predict(SEEN, deterministic=True)
    assert caught.value.outage
    assert len(server.requests) == 1


ODD = {
    "an empty answer": b"",
    "html": b"<html>404 page not found</html>",
    "details as a list": {**ENVELOPE, "details": []},
    "details as null": {**ENVELOPE, "details": None},
    "a list for a code": {**ENVELOPE, "error": ["TEAPOT"]},
    "an object for a code": {**ENVELOPE, "error": {}},
    "a number for a message": {**ENVELOPE, "message": 1},
    "a number for a request id": {**ENVELOPE, "details": {"request_id": [1]}},
    "a word for states": {**GOOD, "states": "abc"},
    "null for states": {**GOOD, "states": None},
    "no state": {**GOOD, "states": []},
    "a state too many": {**GOOD, "states": ["abc", "abc"]},
    "a number for a state": {**GOOD, "states": [1]},
    "deeply nested": b"[" * 200_000,
    "deeply nested objects": b'{"error":' * 200_000,
}


@KINDS
@pytest.mark.parametrize("status", [401, 403, 404, 407, 408, 418, 500])
@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_an_error_that_is_not_of_the_api_is_an_outage(
    server: Scripted, kind: Any, status: int, content: Any
) -> None:
    server.answers = [Answer(status, content)]
    with pytest.raises(BadAnswer) as caught:
        kind(server.url).predict(SEEN, deterministic=True)
    assert (caught.value.status, caught.value.outage) == (status, True)


@KINDS
@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd", "nonsense"])
def test_a_false_content_encoding(server: Scripted, kind: Any, coding: str) -> None:
    server.answers = [Answer(200, b"\x00\x01 no such thing", {"Content-Encoding": coding})]
    with pytest.raises(BadAnswer):
        kind(server.url).predict(SEEN, deterministic=True)
    assert server.heads[0]["accept-encoding"] == "identity"


@KINDS
@pytest.mark.parametrize("value", ["soon", "nan", "1e999", "Tue, 99 Foo 99999 99:99:99 GMT", "-"])
def test_an_odd_retry_after(server: Scripted, kind: Any, value: str) -> None:
    server.answers = [error(503, "SERVICE_UNAVAILABLE", Retry_After=value)]
    with pytest.raises(PolicyError) as caught:
        kind(server.url, retries=0).predict(SEEN, deterministic=True)
    assert caught.value.retry_after_s is None


@KINDS
@pytest.mark.parametrize("url", ["http://a..b", f"http://{'a' * 64}.example", "http://[::1]:1"])
def test_a_host_that_cannot_be(kind: Any, url: str) -> None:
    with pytest.raises(PolicyError) as caught:
        kind(url, retries=0).predict(SEEN, deterministic=True)
    assert caught.value.outage
    assert caught.value.unsent


@KINDS
@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\nConnection: Upgrade\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_http(kind: Any, head: bytes) -> None:
    def answer(peer: Peer) -> None:
        peer.request()
        peer.send(head)

    with faulty(answer) as service, pytest.raises(PolicyError) as caught:
        kind(service.url, retries=0).predict(SEEN, deterministic=True)
    assert caught.value.outage


@KINDS
@pytest.mark.parametrize("observations", [None, 5, [None], [object()], "seen", [[]] * 2])
def test_observations_that_are_none(server: Scripted, kind: Any, observations: Any) -> None:
    server.answers = [error(422, "VALIDATION_ERROR")]
    with pytest.raises(PolicyError) as caught:
        kind(server.url).predict(observations, deterministic=True)
    assert not caught.value.outage


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_asyncio_client_outlives_its_loop(server: Scripted) -> None:
    client = AsyncPolicyClient(server.url, timeout=20.0)
    for _ in range(3):
        answer = asyncio.run(client.predict(SEEN, deterministic=True))
        assert answer.action == Action(**ACTION)
    asyncio.run(client.aclose())
    del client
    gc.collect()  # asyncio warns of connections whose loop ended before they did: here, not later


def test_an_asyncio_client_serves_two_loops_at_once(server: Scripted) -> None:
    client = AsyncPolicyClient(server.url, timeout=20.0)
    failures: list[BaseException] = []
    started, ended = threading.Barrier(3), threading.Barrier(3)

    async def ask() -> None:
        for _ in range(30):
            await asyncio.gather(*[client.predict(SEEN, deterministic=True) for _ in range(3)])
        ended.wait()
        await client.aclose()

    def loop() -> None:
        started.wait()
        try:
            asyncio.run(ask())
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=loop) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_closed_client_says_so(server: Scripted) -> None:
    with PolicyClient(server.url, timeout=20.0) as client:
        client.predict(SEEN, deterministic=True)
    with pytest.raises(ClientClosed, match="closed") as caught:
        client.predict(SEEN, deterministic=True)
    assert not caught.value.outage

    async def twin() -> None:
        async with AsyncPolicyClient(server.url, timeout=20.0) as client:
            await client.health()
        with pytest.raises(ClientClosed):
            await client.health()

    asyncio.run(twin())
