"""Tracing: one of a request shows the gateway, its line, Triton and both steps."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from tests.gateway.processes import OBSERVATION, predict, until
from tests.otlp import Receiver
from tests.stack import Stack, running_stack

pytestmark = pytest.mark.live

CALLER = "b7ad6b7169203331"
BODY = {"observations": [OBSERVATION], "deterministic": True}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="module")
def traced(receiver: Receiver) -> Iterator[Stack]:
    """A stack that traces what its callers do, makes one call at a time, and logs in JSON."""
    with running_stack(
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        OTEL_TRACES_SAMPLER="parentbased_always_off",
        CALLS_IN_FLIGHT="1",
        REQUEST_TIMEOUT_MS="20000",
        LOG_FORMAT="json",
        ACCESS_LOG="all",
        OTEL_BSP_SCHEDULE_DELAY="200",
    ) as stack:
        yield stack


def ask(url: str, trace_id: str, flags: str = "01", **headers: str) -> None:
    parent = f"00-{trace_id}-{CALLER}-{flags}"
    answer = httpx.post(
        url + "/predict", json=BODY, headers={"traceparent": parent, **headers}, timeout=30
    )
    assert answer.status_code == 200, answer.text


GATEWAY = ["carlarl-gateway: POST /predict", "carlarl-gateway: queue", "carlarl-gateway: infer"]
TRITON = ["carlarl-triton: InferRequest", "carlarl-triton: carla_policy_fused-v0.2.0"]
STEPS = ["carlarl-triton: preprocess", "carlarl-triton: policy"]


def test_one_trace_shows_all(traced: Stack, receiver: Receiver) -> None:
    trace_id = secrets.token_hex(16)
    ask(traced.gateway_url, trace_id, **{"X-Request-ID": "traced"})
    names = {*GATEWAY, *TRITON, *STEPS}
    until(lambda: names <= set(receiver.of(trace_id)))
    spans = receiver.of(trace_id)
    parents = {name: span.parent_span_id.hex() for name, span in spans.items()}
    request, queue, infer = (spans[name] for name in GATEWAY)
    assert parents[GATEWAY[0]] == CALLER
    assert parents[GATEWAY[1]] == parents[GATEWAY[2]] == request.span_id.hex()
    assert parents[TRITON[0]] == infer.span_id.hex()
    assert parents[TRITON[1]] == spans[TRITON[0]].span_id.hex()
    assert {parents[name] for name in STEPS} == {spans[TRITON[1]].span_id.hex()}
    order = [request, queue, infer, *(spans[name] for name in (*TRITON, *STEPS))]
    times = [span.start_time_unix_nano for span in order]
    assert times == sorted(times)
    assert all(span.end_time_unix_nano <= request.end_time_unix_nano for span in order[1:3])
    told = {one.key: one.value for one in request.attributes}
    assert told["http.response.status_code"].int_value == 200
    assert told["carlarl.version"].string_value == "v0.2.0"
    assert told["carlarl.request_id"].string_value == "traced"


def test_what_is_not_sampled_leaves_nothing(traced: Stack, receiver: Receiver) -> None:
    ids = [secrets.token_hex(16) for _ in range(3)]
    ask(traced.gateway_url, ids[0], flags="00")
    assert predict(traced.gateway_url).status_code == 200
    for url in (traced.gateway_url + "/readyz", traced.gateway_url + "/metrics"):
        httpx.get(url, headers={"traceparent": f"00-{ids[1]}-{CALLER}-01"})
    ask(traced.gateway_url, ids[2])
    until(lambda: len(receiver.of(ids[2])) >= 7)
    assert not receiver.of(ids[0])
    assert not receiver.of(ids[1])
    ended = {span.trace_id for _, span in receiver.spans if span.name == "POST /predict"}
    called = {span.trace_id for _, span in receiver.spans if span.name == "InferRequest"}
    assert called <= ended, "golden actions are not traced"


def test_requests_that_share_a_call_are_linked(traced: Stack, receiver: Receiver) -> None:
    ids = [secrets.token_hex(16) for _ in range(32)]
    url, body = httpx.URL(traced.gateway_url), json.dumps(BODY)
    with ExitStack() as stack:
        callers = [
            stack.enter_context(socket.create_connection((url.host, url.port), timeout=30))
            for _ in ids
        ]
        for one, caller in zip(ids, callers, strict=True):  # all before the first is answered
            parent = f"traceparent: 00-{one}-{CALLER}-01"
            length = f"Content-Length: {len(body)}"
            head = ("POST /predict HTTP/1.1", "Host: x", parent, length)
            caller.sendall("\r\n".join([*head, "", body]).encode())
        for caller in callers:
            assert caller.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    until(lambda: all(GATEWAY[2] in receiver.of(one) for one in ids))
    infer = {one: receiver.of(one)[GATEWAY[2]] for one in ids}
    linked = [one for one in ids if infer[one].links]
    assert 0 < len(linked) < len(ids)
    for one in linked:
        (link,) = infer[one].links
        first = infer[link.trace_id.hex()]
        assert first.span_id == link.span_id
        assert not first.links
    alone = set(ids) - set(linked)
    until(lambda: all(TRITON[0] in receiver.of(one) for one in alone))
    assert not any(TRITON[0] in receiver.of(one) for one in linked)


def test_the_log_is_json_and_names_the_trace(traced: Stack) -> None:
    """Of the gateway and of the command that keeps it, down to its last line."""
    trace_id = secrets.token_hex(16)
    ask(traced.gateway_url, trace_id)
    until(lambda: trace_id in traced.output())
    lines = [json.loads(line) for line in traced.output().splitlines()]
    assert sum(line.get("trace_id") == trace_id for line in lines) == 1
    (serving,) = [line for line in lines if line["logger"] == "carlarl.serve"]
    assert serving["message"].startswith("serving carla-ppo v0.2.0 after ")
    assert traced.gateway_url in serving["details"]
