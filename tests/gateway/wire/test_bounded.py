"""No body of the allowed size keeps others waiting, or takes much memory."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import msgspec
import pytest

from tests.gateway.processes import OBSERVATION, gateway_process
from tests.gateway.wire.memory import Memory
from tests.gateway.wire.wire import (
    GOOD,
    MSGPACK,
    PROBE,
    Connection,
    ask,
    goes_on,
    process_at,
    request,
)

SIZE = 1_000_000
HELD_S = 0.05
GROWN = min(40 * SIZE, 64 << 20)
TRIES = 12
"""The machine may be busy with other things: the best try counts."""
LEAN = 8 << 20
TYPE = f"Content-Type: {MSGPACK}"


def observation(**fields: Any) -> dict[str, Any]:
    return {"observations": [{**OBSERVATION, **fields}]}


def filled(before: bytes, element: bytes, after: bytes, between: bytes = b",") -> bytes:
    """Repeat an element between two ends, up to the size."""
    count = (SIZE - len(before) - len(after)) // (len(element) + len(between))
    return before + between.join([element] * count) + after


PLAIN = b'{"speed":1,"steering":0,"sensors":[0,0,0,0,0]}'
SENSORS = b'{"observations":[{"speed":1,"steering":0,"sensors":['
JSON: dict[str, bytes] = {
    "empty lists as sensors": filled(SENSORS, b"[]", b"]}]}"),
    "empty objects as sensors": filled(SENSORS, b"{}", b"]}]}"),
    "empty objects as observations": filled(b'{"observations":[', b"{}", b"]}"),
    "numbers as observations": filled(b'{"observations":[', b"1", b"]}"),
    "a list of numbers": filled(b"[", b"1", b"]"),
    "a list of lists": filled(b"[", b"[]", b"]"),
    "lists in lists": b"[" * SIZE,
    "lists in lists, ended": b"[" * (SIZE // 2) + b"]" * (SIZE // 2),
    "lists in lists as sensors": SENSORS + b"[" * (SIZE - 100),
    "objects in objects": filled(b"", b'{"a":', b"", b""),
    "500,000 sensors": filled(SENSORS, b"0", b"]}]}"),
    "sensors out of range": filled(SENSORS, b"9999", b"]}]}"),
    "20,000 observations": filled(b'{"observations":[', PLAIN, b"]}"),
    "20,000 wrong observations": filled(b'{"observations":[', PLAIN.replace(b"1", b'"1"'), b"]}"),
    "a string as version": GOOD[:-1] + b',"version":"' + b"v" * (SIZE - 200) + b'"}',
    "a string as observations": b'{"observations":"' + b"v" * (SIZE - 200) + b'"}',
    "a name": b'{"' + b"n" * (SIZE - 200) + b'":1}',
    "many names": b"{" + b",".join(b'"n%06d":1' % n for n in range(SIZE // 12)) + b"}",
    "digits": GOOD.replace(b"25.5", b"1" * (SIZE - 200)),
    "digits of a fraction": GOOD.replace(b"25.5", b"250." + b"1" * (SIZE - 200)),
    "digits as a seed": GOOD[:-1] + b',"seed":' + b"1" * (SIZE - 200) + b"}",
    "escapes": GOOD[:-1] + b',"version":"' + b"\\u0076" * (SIZE // 6 - 50) + b'"}',
    "no text": b"\xff" * SIZE,
}
PACKED_PLAIN = {"speed": 1, "steering": 0, "sensors": [0] * 5}
MOST = b"\xff\xff\xff\xff"
PACKED: dict[str, bytes] = {
    "empty lists as sensors": msgspec.msgpack.encode(observation(sensors=[[]] * (SIZE - 100))),
    "empty objects as sensors": msgspec.msgpack.encode(observation(sensors=[{}] * (SIZE - 100))),
    "empty objects as observations": msgspec.msgpack.encode({"observations": [{}] * (SIZE - 100)}),
    "numbers as observations": msgspec.msgpack.encode({"observations": [1] * (SIZE - 100)}),
    "a list of numbers": msgspec.msgpack.encode([1] * (SIZE - 100)),
    "lists in lists": b"\x91" * SIZE,
    "lists in lists as observations": b"\x81\xacobservations" + b"\x91" * (SIZE - 100),
    "500,000 sensors": msgspec.msgpack.encode(observation(sensors=[0] * 500_000)),
    "20,000 observations": msgspec.msgpack.encode({"observations": [PACKED_PLAIN] * 20_000}),
    "a string as version": msgspec.msgpack.encode(observation() | {"version": "v" * 900_000}),
    "bytes as observations": msgspec.msgpack.encode({"observations": b"v" * 900_000}),
    "a list that claims the most": b"\xdd" + MOST,
    "observations that claim the most": b"\x81\xacobservations\xdd" + MOST,
    "observations that claim the most, and some": (
        b"\x81\xacobservations\xdd" + MOST + b"\x80" * 900_000
    ),
    "sensors that claim the most": (
        b"\x81\xacobservations\x91\x83\xa5speed\x01\xa8steering\x00\xa7sensors\xdd" + MOST
    ),
    "sensors that claim the most, and some": (
        b"\x81\xacobservations\x91\x83\xa5speed\x01\xa8steering\x00\xa7sensors\xdd"
        + MOST
        + b"\x00" * 900_000
    ),
    "lists that claim the most, each in each": (b"\xdd" + MOST) * 200_000,
    "a map that claims the most": b"\xdf" + MOST,
    "a string that claims the most": b"\x81\xdb" + MOST + b"abc",
    "bytes that claim the most": b"\x81\xacobservations\xc6" + MOST + b"abc",
    "an extension that claims the most": b"\x81\xacobservations\xc9" + MOST + b"\x01abc",
}
CASES = [
    *(pytest.param(body, (), id=f"{name}, JSON") for name, body in JSON.items()),
    *(pytest.param(body, (TYPE,), id=f"{name}, msgpack") for name, body in PACKED.items()),
]


@pytest.fixture(scope="module")
def gateways(triton_url: str) -> Iterator[Callable[[], str]]:
    """Return a gateway that has taken little memory yet: another one where the last has not."""
    with ExitStack() as stack:
        running: list[tuple[str, int]] = []

        def lean() -> str:
            if running and process_at(running[0][0]).memory_info().rss < running[0][1] + LEAN:
                return running[0][0]
            stack.close()
            limits = {"MAX_BODY_BYTES": str(1 << 20), "ACCESS_LOG": "none"}
            url = stack.enter_context(gateway_process(TRITON_URL=triton_url, **limits))
            for _ in range(5):
                assert ask(url, request()).status == 200
            running[:] = [(url, process_at(url).memory_info().rss)]
            return url

        yield lean


def held_s(url: str, data: bytes) -> tuple[int, float]:
    """Send a request; give its status, and how long another's was kept waiting at most."""
    statuses: list[int] = []

    def send() -> None:
        statuses.append(ask(url, data).status)

    with Connection(url) as other:
        assert other.send(PROBE).answer().status == 200
        thread = threading.Thread(target=send)
        longest = 0.0
        thread.start()
        while thread.is_alive():
            began = time.perf_counter()
            assert other.send(PROBE).answer().status == 200
            longest = max(longest, time.perf_counter() - began)
        thread.join()
    return statuses[0], longest


@pytest.mark.parametrize(("body", "lines"), CASES)
def test_a_wrong_body(
    gateways: Callable[[], str], actions: Any, body: bytes, lines: tuple[str, ...]
) -> None:
    assert len(body) <= 1 << 20
    url = gateways()
    data = request(body, *lines)
    with Memory(url) as memory:
        status, held = held_s(url, data)
    assert status in (413, 422)
    assert memory.grown < GROWN, f"{memory.grown >> 20} MB more"
    for _ in range(TRIES - 1):
        if held < HELD_S:
            break
        time.sleep(0.1)
        held = min(held, held_s(url, data)[1])
    assert held < HELD_S, f"others waited for {held * 1000:.0f} ms"
    with Connection(url) as connection:
        assert goes_on(connection, actions)


@pytest.mark.parametrize("packed", [False, True], ids=["JSON", "msgpack"])
def test_the_largest_right_one(gateways: Callable[[], str], packed: bool) -> None:
    """The most observations there may be; in JSON with blanks up to the size."""
    url = gateways()
    content = {"observations": [OBSERVATION] * 1000, "deterministic": True}
    body = msgspec.msgpack.encode(content) if packed else json.dumps(content).encode().ljust(SIZE)
    data = request(body, *([TYPE] if packed else []))
    with Memory(url) as memory:
        status, held = held_s(url, data)
    assert status == 200
    assert memory.grown < GROWN
    for _ in range(TRIES - 1):
        held = min(held, held_s(url, data)[1])
    assert held < HELD_S
