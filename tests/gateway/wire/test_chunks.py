"""Chunks: what is beside the body in them counts for nothing, and cannot go on for ever."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway.wire.memory import Memory
from tests.gateway.wire.wire import (
    GOOD,
    Connection,
    ask,
    check_error,
    chunks,
    goes_on,
    head,
)

TOP = head("Transfer-Encoding: chunked")
TRAILERS = (
    b"X-Request-ID: from-a-trailer",
    b"Content-Type: text/plain",
    b"Content-Encoding: br",
    b"X-Deadline-Ms: x",
    b"X-Carlarl-Echo: from-a-trailer",
    b"Origin: http://trailer.example",
    b"Expect: 100-continue",
)
PIECE = b"a" * 65536
LONGEST_S = 15.0


@pytest.mark.parametrize("extension", [b";a", b";a=b", b';a="b;c"', b";" + b"e" * 200])
def test_extensions_are_skipped(gateway_url: str, actions: Any, extension: bytes) -> None:
    with Connection(gateway_url) as connection:
        assert connection.send(TOP + chunks(GOOD, 60, extension)).answer().actions() == actions
        assert goes_on(connection, actions)


@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
def test_trailers_become_no_headers(gateway_url: str, actions: Any, apart: bool) -> None:
    body = chunks(GOOD, 60, b"", *TRAILERS)
    segments = (TOP + body[:-40], body[-40:]) if apart else (TOP + body,)
    with Connection(gateway_url) as connection:
        answer = connection.send(*segments).answer()
        assert answer.actions() == actions
        assert b"trailer" not in repr(answer).encode()
        assert not answer.closes
        assert goes_on(connection, actions)


def test_a_trailer_may_end_the_connection(gateway_url: str, actions: Any) -> None:
    body = chunks(GOOD, 60, b"", b"Connection: close")
    with Connection(gateway_url) as connection:
        answer = connection.send(TOP + body).answer()
        assert answer.actions() == actions
        assert answer.closes


def test_a_trailer_is_no_key(keyed_gateway: str) -> None:
    for trailer in (b"X-API-Key: a-good-key", b"Authorization: Bearer a-good-key"):
        answer = ask(keyed_gateway, TOP + chunks(GOOD, 60, b"", trailer))
        check_error(answer, 401, "UNAUTHORIZED")
    top = head("Transfer-Encoding: chunked", "X-API-Key: a-good-key")
    wrong = chunks(GOOD, 60, b"", b"X-API-Key: a-bad-key")
    assert ask(keyed_gateway, top + wrong).status == 200


def test_one_large_chunk_and_many_small(gateway_url: str) -> None:
    body = GOOD + b" " * 200_000
    for size in (len(body), 4096, 20):
        assert ask(gateway_url, TOP + chunks(body, size)).status == 200


def endless(kind: str) -> Iterator[bytes]:
    """Return pieces of a chunk's extension, of chunks' extensions, or of a trailer, for ever."""
    if kind == "one extension":
        yield b"5;a="
        while True:
            yield PIECE
    if kind == "extensions of small chunks":
        while True:
            yield (b"1;" + b"a" * 4000 + b"\r\n \r\n") * 16
    yield chunks(GOOD, len(GOOD))[:-2]
    if kind == "one trailer":
        yield b"X-Long: "
        while True:
            yield PIECE
    while True:
        yield b"X-Short: trailer\r\n" * 4000


KINDS = ("one extension", "extensions of small chunks", "one trailer", "trailers")


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_end_is_cut_off(own_gateway: str, actions: Any, kind: str) -> None:
    """Whatever its answer is; its memory is bounded, and others are served meanwhile."""
    with Connection(own_gateway) as other, Connection(own_gateway) as connection:
        assert goes_on(other, actions)
        with Memory(own_gateway) as memory:
            began = time.monotonic()
            connection.send(TOP)
            with contextlib.suppress(OSError):
                for piece in endless(kind):
                    connection.send(piece)
                    assert time.monotonic() < began + LONGEST_S, "it was never cut off"
            assert goes_on(other, actions)
        assert memory.grown < 64 << 20


def test_bodies_of_wrong_json_in_chunks(gateway_url: str, actions: Any) -> None:
    with Connection(gateway_url) as connection:
        for content in (b"{", b"null", json.dumps({"observations": []}).encode()):
            check_error(connection.send(TOP + chunks(content, 1)).answer(), 422, "VALIDATION_ERROR")
        assert goes_on(connection, actions)
