"""A body in msgpack is answered in msgpack, with the fields that JSON has."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.gateway.processes import OBSERVATION
from tests.gateway.wire.wire import MSGPACK, Connection, ask, chunked, goes_on, request

TYPE = f"Content-Type: {MSGPACK}"
CONTENT: dict[str, Any] = {"observations": [OBSERVATION], "deterministic": True}


def packed(**fields: Any) -> bytes:
    return msgspec.msgpack.encode(CONTENT | fields)


def test_the_same_actions(gateway_url: str, actions: Any) -> None:
    with Connection(gateway_url) as connection:
        for data in (request(packed(), TYPE), chunked(packed(), TYPE, size=20)):
            answer = connection.send(data).answer()
            assert answer.get("content-type") == MSGPACK
            assert answer.actions() == actions
            assert set(answer.content()) == {"actions", "version", "timingMs", "deterministic"}
        assert goes_on(connection, actions)


def test_a_seed_comes_back(gateway_url: str) -> None:
    for seed in (0, 7, 2**63 - 1):
        answer = ask(gateway_url, request(packed(deterministic=False, seed=seed), TYPE))
        assert answer.status == 200
        assert answer.content()["seed"] == seed


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (packed(observations=[]), 422, "VALIDATION_ERROR"),
        (packed(typo=1), 422, "VALIDATION_ERROR"),
        (packed(observations=[{**OBSERVATION, "speed": "25"}]), 422, "VALIDATION_ERROR"),
        (packed(observations=[{**OBSERVATION, "speed": True}]), 422, "VALIDATION_ERROR"),
        (packed(observations=[{**OBSERVATION, "speed": float("nan")}]), 422, "VALIDATION_ERROR"),
        (packed(observations=[{**OBSERVATION, "sensors": [0.0] * 4}]), 422, "VALIDATION_ERROR"),
        (packed(seed=-1), 422, "VALIDATION_ERROR"),
        (packed(seed=2**63), 422, "VALIDATION_ERROR"),
        (packed(version="v9.0.0"), 404, "MODEL_NOT_FOUND"),
        (packed()[:-1], 422, "VALIDATION_ERROR"),
        (packed() + b"\x00", 422, "VALIDATION_ERROR"),
        (b"", 422, "VALIDATION_ERROR"),
        (b"\xc1", 422, "VALIDATION_ERROR"),
    ],
    ids=range(13),
)
def test_errors_are_the_same(gateway_url: str, body: bytes, status: int, code: str) -> None:
    answer = ask(gateway_url, request(body, TYPE))
    assert answer.status == status, answer
    content = answer.content()
    assert content["error"] == code
    assert set(content) == {"error", "message", "details", "timestamp"}
