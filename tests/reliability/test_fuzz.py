"""Tens of thousands of bad inputs: to the gateway, to Triton over HTTP and over gRPC.

`FUZZ_SEED` repeats a run, which prints its seed; `FUZZ_INPUTS` says how many (40000).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import grpc
import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.grpc import service_pb2

from tests import fuzzing
from tests.carlarl.test_supervision import gateway, triton
from tests.fuzzing import Input, Maker, Sender, anonymous
from tests.gateway.processes import OBSERVATION, predict, status, until
from tests.reliability import page
from tests.stack import Stack, running_stack

pytestmark = pytest.mark.reliability

INPUTS = int(os.environ.get("FUZZ_INPUTS", "40000"))
GROWN_MB = 30.0
"""More is no noise: an input that is kept whole would be hundreds."""


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


class Watched:
    """The service before and after: the same processes, as large, and nothing left."""

    def __init__(self, stack: Stack, what: str) -> None:
        self._stack, self._what = stack, what
        self._processes, self._segments = processes(stack), segments()
        self._held = anonymous(self._processes)

    def check(self, outcome: fuzzing.Outcome) -> None:
        until(lambda: status(self._stack.gateway_url + "/readyz") == 200)
        assert predict(self._stack.gateway_url).status_code == 200
        assert processes(self._stack) == self._processes
        assert all(one.status() != psutil.STATUS_ZOMBIE for one in self._processes)
        connections = [
            one for one in gateway(self._stack).net_connections("tcp") if one.status == "CLOSE_WAIT"
        ]
        assert connections == []
        assert segments() <= self._segments, "shared memory is left"
        grown = anonymous(self._processes) - self._held
        codes = ", ".join(f"{count:,} × {code}" for code, count in sorted(outcome.codes.items()))
        sent = f"{outcome.sent.total():,}"
        row = page.add("inputs", self._what, sent, codes, f"{grown:+.1f}")
        print(row, dict(outcome.sent))
        assert grown < GROWN_MB


def some(random: Random, makers: tuple[Maker, ...], count: int) -> Iterator[Input]:
    return (random.choice(makers)(random) for _ in range(count))


def test_the_gateway(service: Stack, seed: int) -> None:
    def sender() -> Sender:
        url, good = service.gateway_url, fuzzing.GOOD_REQUEST
        return Sender(url, good, fuzzing.check_gateway, fuzzing.actions)

    random = Random(seed)
    count = INPUTS * 5 // 8
    warm = sender().run(some(random, fuzzing.GATEWAY_INPUTS, count // 5))
    assert warm.problems == []
    sender().run(fuzzing.too_large(random) for _ in range(50))
    watched = Watched(service, "raw HTTP to the gateway")
    outcome = sender()
    outcome.run(some(random, fuzzing.GATEWAY_INPUTS, count))
    outcome.run(fuzzing.too_large(random) for _ in range(200))
    assert outcome.outcome.problems == []
    watched.check(outcome.outcome)


def test_triton_over_http(service: Stack, seed: int) -> None:
    good = good_request("carla_policy_fused-v0.2.0")

    def sender() -> Sender:
        return Sender(f"http://{service.triton_http}", good, fuzzing.check_triton, action)

    def action(answer: fuzzing.Answer) -> bytes:
        assert answer.status == 200, answer
        return answer.body[int(answer.headers["inference-header-content-length"]) :]

    random = Random(seed)
    count = INPUTS // 4
    warm = sender().run(some(random, fuzzing.TRITON_INPUTS, count // 2))
    assert warm.problems == []
    watched = Watched(service, "tensors over HTTP to Triton")
    outcome = sender().run(some(random, fuzzing.TRITON_INPUTS, count))
    assert outcome.problems == []
    watched.check(outcome)


def good_request(model: str) -> bytes:
    values = [OBSERVATION["speed"], OBSERVATION["steering"], *OBSERVATION["sensors"]]
    data = np.array(values, "<f4").tobytes()
    one = {"name": "observation", "shape": [1, 7], "datatype": "FP32"}
    one["parameters"] = {"binary_data_size": len(data)}
    outputs = [{"name": "action", "parameters": {"binary_data": True}}]
    text = json.dumps({"inputs": [one], "outputs": outputs}).encode()
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\n"
    head += f"Inference-Header-Content-Length: {len(text)}\r\n"
    head += f"Content-Length: {len(text) + len(data)}\r\n\r\n"
    return head.encode() + text + data


def test_triton_over_grpc(service: Stack, seed: int) -> None:
    random = Random(seed)
    count = INPUTS // 8
    with grpcclient.InferenceServerClient(service.triton_grpc) as client:
        right = predict(service.gateway_url, deterministic=True).json()["actions"]

        def send(many: int) -> fuzzing.Outcome:
            outcome = fuzzing.Outcome()
            for number in range(many):
                message = grpc_request(random)
                outcome.sent["tensors over gRPC"] += 1
                outcome.codes[call(client, message)] += 1
                if number % 10 == 0:
                    answer = predict(service.gateway_url, deterministic=True)
                    assert answer.json()["actions"] == right
            return outcome

        send(count // 2)
        watched = Watched(service, "tensors over gRPC to Triton")
        watched.check(send(count))


ALLOWED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE", "INTERNAL", "UNIMPLEMENTED"}
ALLOWED |= {"RESOURCE_EXHAUSTED"}  # the client's: a message that repeats a very long name


def call(client: grpcclient.InferenceServerClient, message: service_pb2.ModelInferRequest) -> str:
    """Send a message as it is, and give the status of the answer."""
    try:
        client._client_stub.ModelInfer(message, timeout=fuzzing.PATIENCE_S)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def grpc_request(random: Random) -> service_pb2.ModelInferRequest:
    """A request with something wrong, as far as the protocol's types allow."""
    model = random.choice(list(fuzzing.MODELS))
    described, data = fuzzing.tensors(random, model)
    for _ in range(random.choice((0, 1, 1, 2))):
        if described:
            fuzzing.wrong_tensors(random, described, data)
    message = service_pb2.ModelInferRequest(model_name=model)
    for one in described:
        tensor = message.inputs.add(name=one["name"], datatype=one["datatype"])
        tensor.shape.extend(one["shape"])
        if random.random() < 0.05:
            tensor.contents.fp32_contents.extend([1.0] * random.choice((1, 7, 5000)))
    message.raw_input_contents.extend(data[: random.choice((len(data), len(data), 1))])
    if random.random() < 0.2:
        message.outputs.add(name=random.choice(("action", "nothing", "", "x" * 9999)))
    if random.random() < 0.1:
        message.model_version = random.choice(("1000", "99", "-1", "x", "9" * 30))
    if random.random() < 0.1:
        message.parameters["sequence_id"].int64_param = random.choice((-1, 0, 2**63 - 1))
    if random.random() < 0.1:
        message.parameters["timeout"].int64_param = -1
    return message


def test_the_openapi_page(service: Stack) -> None:
    watched = Watched(service, "schemathesis, by the OpenAPI page")
    outcome = fuzzing.check_by_openapi(service.gateway_url, examples=1000, derandomize=False)
    assert outcome.sent.total() > 1000
    watched.check(outcome)
