"""An answer is of its own request: behind a proxy that mixes them up, and after a fork."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from carlarl_client import Action, ConnectionFailed
from carlarl_client.types import Prediction
from tests.client.faulty import Peer, answer_to, faulty
from tests.client.kinds import KINDS, SEEN

SEVERAL = [{**SEEN, "steering": number / 100} for number in range(40)]


def twice(peer: Peer) -> None:
    while True:
        peer.send(2 * answer_to(peer.request()))


def twice_without_an_echo(peer: Peer) -> None:
    while True:
        peer.send(2 * answer_to(peer.request(), echo=False))


def again_a_little_later(peer: Peer) -> None:
    answer = answer_to(peer.request())
    peer.send(answer)
    while True:
        after = answer_to(peer.request())
        peer.send(answer[:100])
        peer.wait(0.002)
        peer.send(answer[100:] + after)
        answer = after


@KINDS
@pytest.mark.parametrize(
    "serve",
    [twice, twice_without_an_echo, again_a_little_later],
    ids=lambda serve: serve.__name__,
)
def test_a_duplicated_answer_is_nobody_s(serve: Callable[[Peer], None], kind: Any) -> None:
    with faulty(serve) as service:
        outcomes = kind(service.url).predict_all(SEVERAL, deterministic=True)
    for asked, (outcome, _) in zip(SEVERAL, outcomes, strict=True):
        assert isinstance(outcome, Prediction), outcome  # asked again over another connection
        assert outcome.action == Action(0.5, 0.0, asked["steering"])


@KINDS
def test_an_answer_to_another_is_an_outage(kind: Any) -> None:
    def of_another(peer: Peer) -> None:
        while True:
            request = peer.request()
            request.headers["x-carlarl-echo"] = "another"
            peer.send(answer_to(request))

    with faulty(of_another) as service:
        with pytest.raises(ConnectionFailed, match="another request") as caught:
            kind(service.url).predict(SEEN)
        assert len(service.connections) == 1  # sampled, so not asked again
        with pytest.raises(ConnectionFailed):
            kind(service.url, retries=1).predict(SEEN, deterministic=True)
        assert len(service.connections) == 3  # a connection that mixed them up is not kept
    assert caught.value.outage
    assert caught.value.request_id


@KINDS
def test_each_try_has_an_echo_of_its_own(kind: Any) -> None:
    echoes: list[str] = []

    def note(peer: Peer) -> None:
        request = peer.request()
        echoes.append(request.headers["x-carlarl-echo"])
        if len(echoes) > 1:
            peer.send(answer_to(request))

    with faulty(note) as service:
        assert kind(service.url).predict(SEEN, deterministic=True).version == "v0.2.0"
    assert len(set(echoes)) == 2
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,64}", echo) for echo in echoes)


FORKS = """
import os, sys, threading
from carlarl_client import PolicyClient

client = PolicyClient(sys.argv[1], timeout=20.0)
def ask(number):
    seen = {"speed": 25.5, "steering": number / 100, "sensors": [0.5] * 5}
    return client.predict(seen, deterministic=True).action.steer == number / 100

threads = [threading.Thread(target=ask, args=[0]) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
children = []
for number in range(1, 9):
    child = os.fork()
    if child == 0:
        os._exit(0 if all([ask(number) for _ in range(30)]) else 1)
    children.append(child)
here = [ask(99) for _ in range(30)]
ends = [os.waitpid(child, 0)[1] for child in children]
assert all(here), here
assert ends == [0] * 8, ends
client.close()
"""


def test_forked_processes_have_connections_of_their_own() -> None:
    with faulty(one_by_one) as service:
        result = subprocess.run(
            [sys.executable, "-W", "error", "-W", "ignore:.*fork:DeprecationWarning"]
            + ["-c", FORKS, service.url],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    assert len(service.connections) >= 9


def one_by_one(peer: Peer) -> None:
    while True:
        request = peer.request()
        peer.wait(0.001)
        peer.send(answer_to(request, echo=False))


FORKED_LOOPS = """
import asyncio, os, sys
from carlarl_client import AsyncPolicyClient

client = AsyncPolicyClient(sys.argv[1], timeout=20.0)
async def ask(number):
    seen = {"speed": 25.5, "steering": number / 100, "sensors": [0.5] * 5}
    return [(await client.predict(seen, deterministic=True)).action.steer for _ in range(30)]

async def main():
    await ask(0)
    children = []
    for number in range(1, 5):
        child = os.fork()
        if child == 0:
            asyncio.events._set_running_loop(None)
            os._exit(0 if set(asyncio.run(ask(number))) == {number / 100} else 1)
        children.append(child)
    assert set(await ask(99)) == {0.99}
    ends = [os.waitpid(child, 0)[1] for child in children]
    assert ends == [0] * 4, ends
    await client.aclose()

asyncio.run(main())
"""


def test_forked_processes_have_connections_of_their_own_in_asyncio_too() -> None:
    with faulty(one_by_one) as service:
        result = subprocess.run(
            [sys.executable, "-c", FORKED_LOOPS, service.url],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert result.returncode == 0, result.stderr
    assert len(service.connections) >= 5
