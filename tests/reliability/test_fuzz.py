"""Tens of thousands of bad inputs: to the gateway, to Triton over HTTP and over gRPC.

`FUZZ_SEED` repeats a run, which prints its seed; `FUZZ_INPUTS` says how many (40000).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import grpc
import psutil
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.grpc import service_pb2

from tests import page
from tests.carlarl.test_supervision import gateway, triton
from tests.fuzzing import checks, gateway_inputs, triton_inputs
from tests.fuzzing.checks import anonymous
from tests.fuzzing.exchange import Input, Maker, Outcome
from tests.fuzzing.sending import PATIENCE_S, Sender
from tests.gateway.processes import predict, status, until
from tests.stack import Stack, running_stack

pytestmark = pytest.mark.reliability

INPUTS = int(os.environ.get("FUZZ_INPUTS", "40000"))
GROWN_MB = 30.0
"""More is no noise: an input that is kept whole would be hundreds."""
REACHED = 0.3
"""Share of the tensors that the policies themselves have to answer, with actions or a refusal."""


@pytest.fixture(scope="module")
def seed() -> int:
    chosen = int(os.environ.get("FUZZ_SEED") or time.time())
    print(f"FUZZ_SEED={chosen}")
    return chosen


@pytest.fixture(scope="module")
def service() -> Iterator[Stack]:
    with running_stack(RESTART_TRIES="0") as stack:  # what falls stays down, and is seen
        yield stack


def processes(stack: Stack) -> list[psutil.Process]:
    """The gateway's and Triton's; the same ones as long as nothing has fallen."""
    roots = gateway(stack), triton(stack)
    return [*roots, *(child for root in roots for child in root.children(recursive=True))]


def segments() -> set[Path]:
    return set(Path("/dev/shm").iterdir())


def half_closed(process: psutil.Process) -> bool:
    """Whether it keeps a connection that its caller has ended."""
    return any(one.status == "CLOSE_WAIT" for one in process.net_connections("tcp"))


class Watched:
    """The service before and after: the same processes, as large, and nothing left."""

    def __init__(self, stack: Stack, what: str) -> None:
        self._stack, self._what = stack, what
        self._processes, self._segments = processes(stack), segments()
        self._held = anonymous(self._processes)

    def check(self, outcome: Outcome) -> None:
        until(lambda: status(self._stack.gateway_url + "/readyz") == 200)
        assert predict(self._stack.gateway_url).status_code == 200
        assert processes(self._stack) == self._processes
        assert all(one.status() != psutil.STATUS_ZOMBIE for one in self._processes)
        until(lambda: not half_closed(gateway(self._stack)), 5)
        assert segments() <= self._segments, "shared memory is left"
        grown = anonymous(self._processes) - self._held
        codes = ", ".join(f"{count:,} × {code}" for code, count in sorted(outcome.codes.items()))
        sent = f"{outcome.sent.total():,}"
        reached = outcome.reached / outcome.sent.total()
        row = page.add("inputs", self._what, sent, codes, f"{reached:.0%}", f"{grown:+.1f}")
        print(row, dict(outcome.sent))
        assert grown < GROWN_MB


def some(random: Random, makers: tuple[Maker, ...], count: int) -> Iterator[Input]:
    return (random.choice(makers)(random) for _ in range(count))


def test_the_gateway(service: Stack, seed: int) -> None:
    def sender() -> Sender:
        url, good = service.gateway_url, gateway_inputs.GOOD_REQUEST
        return Sender(url, good, checks.check_gateway, checks.actions)

    random = Random(seed)
    count = INPUTS * 5 // 8
    warm = sender().run(some(random, gateway_inputs.GATEWAY_INPUTS, count // 5))
    assert warm.problems == []
    sender().run(gateway_inputs.too_large(random) for _ in range(50))
    watched = Watched(service, "raw HTTP to the gateway")
    outcome = sender()
    outcome.run(some(random, gateway_inputs.GATEWAY_INPUTS, count))
    outcome.run(gateway_inputs.too_large(random) for _ in range(200))
    assert outcome.outcome.problems == []
    watched.check(outcome.outcome)


def test_triton_over_http(service: Stack, seed: int) -> None:
    def sender() -> Sender:
        url, good = f"http://{service.triton_http}", triton_inputs.GOOD_INFERENCE
        return Sender(url, good, checks.check_triton, checks.action)

    random = Random(seed)
    count = INPUTS // 4
    warm = sender().run(some(random, triton_inputs.TRITON_INPUTS, count // 2))
    assert warm.problems == []
    watched = Watched(service, "tensors over HTTP to Triton")
    outcome = sender().run(some(random, triton_inputs.TRITON_INPUTS, count))
    assert outcome.problems == []
    assert outcome.reached > REACHED * count
    watched.check(outcome)


def test_triton_over_grpc(service: Stack, seed: int) -> None:
    random = Random(seed)
    count = INPUTS // 8
    with grpcclient.InferenceServerClient(service.triton_grpc) as client:
        right = predict(service.gateway_url, deterministic=True).json()["actions"]

        def send(many: int) -> Outcome:
            outcome = Outcome()
            for number in range(many):
                message = triton_inputs.over_grpc(random)
                outcome.sent["tensors over gRPC"] += 1
                code, by_a_policy = call(client, message)
                outcome.codes[code] += 1
                outcome.reached += by_a_policy
                if number % 10 == 0:
                    answer = predict(service.gateway_url, deterministic=True)
                    assert answer.json()["actions"] == right
            return outcome

        send(count // 2)
        watched = Watched(service, "tensors over gRPC to Triton")
        outcome = send(count)
        watched.check(outcome)
        assert outcome.reached > REACHED * count
        assert set(outcome.codes) <= ALLOWED


ALLOWED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE", "INTERNAL", "UNIMPLEMENTED"}
ALLOWED |= {"RESOURCE_EXHAUSTED"}  # the client's: a message that repeats a very long name


def call(
    client: grpcclient.InferenceServerClient, message: service_pb2.ModelInferRequest
) -> tuple[str, bool]:
    """Send a message as it is, and give the answer's status and whether a policy gave it."""
    try:
        client._client_stub.ModelInfer(message, timeout=PATIENCE_S)
    except grpc.RpcError as error:
        return str(error.code().name), checks.by_a_policy(error.details() or "")
    return "OK", True


def test_the_openapi_page(service: Stack) -> None:
    watched = Watched(service, "schemathesis, by the OpenAPI page")
    outcome = checks.check_by_openapi(service.gateway_url, examples=1000, derandomize=False)
    assert outcome.sent.total() > 1000
    watched.check(outcome)
