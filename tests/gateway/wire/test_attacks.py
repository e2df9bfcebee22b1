"""Nobody gets another's answer: victims and an attacker on one connection of a real proxy."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from random import Random
from typing import Any

import pytest

from tests.gateway.processes import gateway_process
from tests.gateway.wire.proxies import PROXIES, needs, proxy
from tests.gateway.wire.wire import (
    GOOD,
    Connection,
    EndedError,
    ask,
    chunked,
    chunks,
    head,
    request,
)

REQUESTS = 2000
SLOW_INNER = request(b"", target="/warmup")
"""A request whose answer takes so long that the proxy has given the connection to a victim."""
PLAIN_INNER = request(None, method="GET", target="/nothing")
BIG = 20_000
"""More than nginx keeps in memory: it sends head and body by themselves."""
UPGRADE = ("Connection: Upgrade", "Upgrade: foo")
H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")

Victim = tuple[bytes, str, Any]
"""A request, its echo, and the action that is its right answer."""
Segments = tuple[bytes, ...]


def upgrades(*lines: str) -> Iterator[Segments]:
    """Posts whose bodies are requests, small and large, in one segment and in two."""
    for inner in (SLOW_INNER, PLAIN_INNER):
        for size in (0, BIG):
            body = b"\r\n" * (size // 2) + inner
            top = head(*lines, f"Content-Length: {len(body)}")
            yield from ((top, body), (top + body,), (top, body))
        top = head(*lines, "Transfer-Encoding: chunked")
        yield (top, chunks(inner, len(inner)))


def others() -> Iterator[Segments]:
    """Posts and gets of every other kind that could leave something behind."""
    inner = SLOW_INNER
    length = f"Content-Length: {len(inner)}"
    yield head("Expect: 100-continue", length), inner
    yield head("Expect: foo", length), inner
    yield (request(inner, method="GET", target="/livez"),)
    yield head(length, method="GET", target="/livez"), inner
    yield (chunked(inner, method="GET", target="/livez", size=1000),)
    yield (chunked(inner, method="HEAD", target="/livez", size=1000),)
    yield (head("Transfer-Encoding: chunked") + chunks(GOOD, 60, b";a=b;c"),)
    trailers = (b"X-Request-ID: a", b"Content-Type: text/plain", b"X-API-Key: b")
    yield (head("Transfer-Encoding: chunked") + chunks(GOOD, 60, b"", *trailers),)
    yield head("X-Deadline-Ms: x", f"Content-Length: {BIG}"), b"\r\n" * (BIG // 2)
    yield head("Content-Type: text/plain", length), inner
    yield head(f"Content-Length: {2_000_000}"), b"\r\n" * 10_000 + inner
    yield (request(GOOD) + b"\x00\x01 no request\r\n\r\n",)
    yield (head(length, length) + inner,)
    yield (head(length, "Transfer-Encoding: chunked") + chunks(inner, 1000),)
    yield (head("Transfer-Encoding: chunked, identity") + chunks(inner, 1000),)


ATTACKS = {
    "upgrades": [*upgrades(*UPGRADE)],
    "h2c": [*upgrades(*H2C)],
    "the rest": [*others()],
}


@pytest.fixture(scope="module")
def victims(gateway_url: str) -> list[Victim]:
    """Observations of which no two have the same right answer."""
    random = Random(5)
    seen = [
        {
            "speed": round(random.uniform(0, 150), 3),
            "steering": round(random.uniform(-1, 1), 3),
            "sensors": [round(random.uniform(0, 1), 3) for _ in range(5)],
        }
        for _ in range(1000)
    ]
    body = json.dumps({"observations": seen, "deterministic": True}).encode()
    answered = zip(seen, ask(gateway_url, request(body)).actions(), strict=True)
    known = {str(action): (observation, action) for observation, action in answered}
    assert len(known) > 900
    made = []
    for number, (observation, action) in enumerate(known.values()):
        body = json.dumps({"observations": [observation], "deterministic": True}).encode()
        echo = f"victim-{number}"
        made.append((request(body, f"X-Carlarl-Echo: {echo}"), echo, action))
    return made


@pytest.fixture(scope="module")
def attacked_gateway(triton_url: str) -> Iterator[str]:
    """URL of a gateway behind the proxies alone."""
    with gateway_process(TRITON_URL=triton_url, ACCESS_LOG="none") as url:
        yield url


@contextmanager
def attacked(url: str, attack: list[Segments]) -> Iterator[Counter[str]]:
    """Attack until the block ends, and count what the attacker is answered."""
    stop, statuses = threading.Event(), Counter[str]()

    def run() -> None:
        for segments in cycle(attack):
            if stop.is_set():
                return
            with Connection(url) as connection:
                try:
                    connection.send(*segments)
                    is_head = segments[0].startswith(b"HEAD")
                    answer = connection.answer(to_head=is_head, seconds=1)
                    statuses[f"{answer.status}"] += 1
                    if answer.get("x-carlarl-echo") is not None:
                        statuses["a victim's"] += 1
                except (EndedError, OSError):
                    statuses["none"] += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield statuses
    finally:
        stop.set()
        thread.join()


def wrong_answers(
    url: str, victims: list[Victim], attacked_enough: Callable[[], bool]
) -> list[str]:
    """Ask for every victim in turn, on one connection, and tell what is not its own answer."""
    wrong = []
    with Connection(url) as connection:
        for number, (data, echo, action) in enumerate(cycle(victims)):
            if number >= REQUESTS and attacked_enough():
                break
            answer = connection.send(data).answer()
            if answer.status != 200 or answer.content().get("actions") != [action]:
                wrong.append(f"{echo}: {answer.status} {answer.body[:100]!r}")
            elif answer.get("x-carlarl-echo") != echo:
                wrong.append(f"{echo}: its own, with the echo {answer.get('x-carlarl-echo')}")
    return wrong


@pytest.mark.parametrize(
    "attack", ["upgrades", pytest.param("h2c", marks=pytest.mark.reliability), "the rest"]
)
@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in PROXIES])
def test_none_gets_anothers_answer(
    name: str, attack: str, attacked_gateway: str, victims: list[Victim]
) -> None:
    with proxy(name, attacked_gateway) as url:
        with attacked(url, ATTACKS[attack]) as statuses:
            began = time.monotonic()
            once = len(ATTACKS[attack])
            wrong = wrong_answers(url, victims, lambda: statuses.total() >= once)
            taken = time.monotonic() - began
        swapped = [one for one in wrong if "its own" not in one]
        print(f"{name}, {attack}: {len(swapped)} wrong in {taken:.1f} s; the attacker's {statuses}")
        assert not swapped, f"{len(swapped)} answers were another's, first {swapped[:3]}"
        assert "a victim's" not in statuses
        assert not wrong, f"{len(wrong)} answers had another echo, first {wrong[:3]}"
        if attack != "the rest":
            assert set(statuses) <= {"422"}, statuses
