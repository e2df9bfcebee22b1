"""The fast way through `/predict` and the framework's way give the same answers."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

VARY = {"timingMs", "timestamp", "request_id", "seed"}
FRAMEWORK = {"Origin": "http://example.org"}
"""A header that only the framework handles, so that the request takes its way."""

GOOD = {"speed": 25.5, "steering": 0.1, "sensors": [0.8, 0.2, 0.5, 0.9, 0.1]}


def without_variation(content: Any) -> Any:
    if isinstance(content, dict):
        return {k: without_variation(v) for k, v in content.items() if k not in VARY}
    return content


@pytest.fixture(scope="module")
def ask(gateway_url: str) -> Any:
    with httpx.Client(base_url=gateway_url) as client:

        def both(body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
            sent = {"Content-Type": "application/json", **(headers or {})}
            fast = client.post("/predict", content=body, headers=sent)
            slow = client.post("/predict", content=body, headers={**sent, **FRAMEWORK})
            assert fast.status_code == slow.status_code, body
            fast_body, slow_body = fast.json(), slow.json()
            assert without_variation(fast_body) == without_variation(slow_body), body
            assert list(fast_body) == list(slow_body)
            if "seed" in slow_body and b'"seed"' in body:
                assert fast_body["seed"] == slow_body["seed"]
            names = {"content-type", "x-request-id", "x-process-time", "retry-after"}
            assert names & set(fast.headers) == names & set(slow.headers)
            assert fast.headers["content-type"] == slow.headers["content-type"]
            return fast

        yield both


number = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(-1, 1),
    st.integers(-2, 201),
    st.sampled_from([0, -0.0, 1, 1.0, 200, 200.0000001, 1e-320, 1e308, 10**30, True, "1", None]),
)
observation = st.one_of(
    st.fixed_dictionaries(
        {
            "speed": st.one_of(st.floats(0, 200), st.integers(0, 200)),
            "steering": st.floats(-1, 1),
            "sensors": st.lists(st.floats(-1000, 1000), min_size=5, max_size=5),
        }
    ),
    st.fixed_dictionaries(
        {"speed": number, "steering": number, "sensors": st.lists(number, max_size=6)},
        optional={"extra": number},
    ),
    st.dictionaries(st.sampled_from(["speed", "steering", "sensors", "Speed"]), number),
)
request_body = st.fixed_dictionaries(
    {"observations": st.lists(observation, max_size=3)},
    optional={
        "deterministic": st.one_of(st.booleans(), st.just(1), st.none()),
        "seed": st.one_of(
            st.integers(-1, 2**64), st.floats(0, 10), st.none(), st.just("7"), st.just(7.0)
        ),
        "version": st.sampled_from(["v0.1.0", "v0.2.0", "v9.0.0", "latest", "", None, 1]),
        "determinstic": st.booleans(),
    },
)


@settings(max_examples=400, deadline=None)
@given(content=request_body, indent=st.sampled_from([None, 1]))
def test_generated_requests(ask: Any, content: dict[str, Any], indent: int | None) -> None:
    if not content.get("deterministic") and content.get("seed") is None:
        content["seed"] = 5
    ask(json.dumps(content, indent=indent).encode())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_requests(ask: Any, data: st.DataObject) -> None:
    """A good body with a few bytes changed, dropped or doubled."""
    body = bytearray(
        json.dumps({"observations": [GOOD], "deterministic": True, "version": "v0.2.0"}).encode()
    )
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(body) - 1))
        change = data.draw(st.sampled_from(["replace", "drop", "double", "insert"]))
        if change == "replace":
            body[place] = data.draw(st.sampled_from(b'0123456789.-+eE{}[]",: \\\xff\x00tfn'))
        elif change == "drop":
            del body[place]
        elif change == "double":
            body[place:place] = body[place : place + data.draw(st.integers(1, 30))]
        else:
            body[place:place] = data.draw(st.sampled_from([b'"seed":1,', b"\xef\xbb\xbf", b" "]))
        body = body or bytearray(b"{")
    if b'"deterministic": true' in body:
        ask(bytes(body))
    else:
        ask(bytes(body).replace(b"{", b'{"seed":3,', 1))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'{"observations":[{"speed":1,"speed":2,"steering":0,"sensors":[0,0,0,0,0]}]}',
        b'{"observations":[{"sp\\u0065ed":1,"steering":0,"sensors":[0,0,0,0,0]}],"seed":1}',
        b'{"observations":[{"speed":1,"steering":0,"sensors":[0,0,0,0,0]}],"seed":1,"seed":1}',
        b'{"observations":[{"speed":1,"steering":0,"sensors":[0,0,0,0,0]}],"seed":01}',
        b'{"observations":[{"speed":1,"steering":0,"sensors":[0,0,0,0,0]}],"seed":1e2}',
        b'{"observations":[{"speed":1,"steering":0,"sensors":[0,0,0,0,0]}],"seed":1.0}',
        b'{"observations":[{"speed":1,"steering":0,"sensors":[0,0,0,0,0]}],"seed":-0}',
        b'{"observations":[{"speed":1,"steering":0,"sensors":[0,0,0,0,0]}],"seed" :\t7\r\n}',
        b'{"observations":[{"speed":1e400,"steering":0,"sensors":[0,0,0,0,0]}]}',
        b'{"observations":[{"speed":NaN,"steering":0,"sensors":[0,0,0,0,0]}]}',
        b'{"observations":[{"speed":1,"steering":-0.0,"sensors":[1e-400,0,0,0,0]}],"seed":4}',
        b'{"observations":[],"deterministic":true}',
        b'\xef\xbb\xbf{"observations":[]}',
        b'{"observations":[{"speed":1,"steering":0,"sensors":[0,0,0,0,0]}],"seed":1} x',
        b'{"observations":' + b"[" * 5000,
    ],
)
def test_odd_bodies(ask: Any, body: bytes) -> None:
    ask(body)


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "Application/JSON", "text/plain",
     "application/vnd.api+json", "", "application/jsonx"],
)  # fmt: skip
def test_content_types(ask: Any, content_type: str) -> None:
    body = json.dumps({"observations": [GOOD], "deterministic": True}).encode()
    ask(body, {"Content-Type": content_type})


def test_batches(ask: Any) -> None:
    for count in (1, 2, 255, 256, 257, 1000, 1001):
        rows = [{**GOOD, "speed": 200 * index / 1001} for index in range(count)]
        ask(json.dumps({"observations": rows, "deterministic": True}).encode())
        ask(json.dumps({"observations": rows, "seed": 8}).encode())
