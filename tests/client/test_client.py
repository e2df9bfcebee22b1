"""Both clients against the real service, and against what a service can do wrong."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import httpx
import numpy as np
import pytest

import carlarl_client
from carlarl_client import (
    Action,
    AsyncPolicyClient,
    ConnectionFailed,
    DeadlineExceeded,
    ModelNotFound,
    Observation,
    PolicyClient,
    PolicyError,
    ResourceExhausted,
    ServiceUnavailable,
    ValidationFailed,
)
from carlarl_client._answers import retry_after
from carlarl_client._core import Call, Deadline, Retries
from carlarl_client.errors import BY_CODE
from gateway.api import errors as gateway_errors
from tests.client.kinds import KINDS, SEEN
from tests.client.scripted import ACTION, Answer, Scripted, error, nobody, scripted, silent


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted() as server:
        yield server


@KINDS
def test_predicts_as_the_api_does(gateway_url: str, kind: Any) -> None:
    request = {"observations": [SEEN, SEEN], "seed": 7}
    plain = httpx.post(f"{gateway_url}/predict", json=request, timeout=20.0).json()
    client = kind(gateway_url)
    answer = client.predict([SEEN, Observation(**SEEN)], seed=7)
    assert [action._asdict() for action in answer.actions] == plain["actions"]
    assert (answer.version, answer.seed, answer.deterministic) == ("v0.2.0", 7, False)
    assert answer.request_id
    assert 0.0 < answer.timing_ms < answer.latency_ms

    one = client.predict(SEEN, deterministic=True, version="v0.1.0")
    assert one.actions == (one.action,)
    assert isinstance(one.action, Action)
    assert (one.version, one.seed) == ("v0.1.0", None)


@KINDS
def test_the_other_routes(gateway_url: str, kind: Any) -> None:
    client = kind(gateway_url)
    assert client.metadata()["sensors"] == 5
    assert client.versions()["active"] == "v0.2.0"
    assert client.health()["status"] == "ok"
    assert client.warmup()["status"] == "warmed"


@KINDS
def test_errors_carry_code_message_and_request_id(gateway_url: str, kind: Any) -> None:
    client = kind(gateway_url)
    with pytest.raises(ModelNotFound, match="MODEL_NOT_FOUND: .*v9") as caught:
        client.predict(SEEN, deterministic=True, version="v9.0.0")
    assert (caught.value.code, caught.value.status) == ("MODEL_NOT_FOUND", 404)
    assert len(str(caught.value.request_id)) == 32
    assert not caught.value.outage
    with pytest.raises(ValidationFailed) as invalid:
        client.predict({**SEEN, "speed": 300.0})
    (problem,) = invalid.value.details["validation_errors"]
    assert problem["field"] == "observations.0.speed"


def test_numpy_is_sent_as_numbers(gateway_url: str) -> None:
    with PolicyClient(gateway_url, timeout=20.0) as client:
        sensors = np.array(SEEN["sensors"])
        typed = Observation(np.float64(25.5), np.array(0.1), sensors)
        assert (
            client.predict(typed, deterministic=True).action
            == client.predict(SEEN, deterministic=True).action
        )


@KINDS
@pytest.mark.parametrize("speed", [math.nan, object()])
def test_what_json_cannot_hold_is_not_sent(server: Scripted, kind: Any, speed: Any) -> None:
    with pytest.raises(ValidationFailed, match="observations: "):
        kind(server.url).predict({**SEEN, "speed": speed})
    assert not server.requests


def test_one_connection_is_kept(server: Scripted) -> None:
    with PolicyClient(server.url, api_key="let-me-in", timeout=20.0) as client:
        for _ in range(3):
            assert client.predict(SEEN, deterministic=True).action == Action(**ACTION)
    assert len(server.connections) == 1
    assert server.heads[0]["x-api-key"] == "let-me-in"
    assert 0 < int(server.heads[0]["x-deadline-ms"]) <= 20_000


@KINDS
def test_a_deadline_holds_where_nothing_is_said(kind: Any) -> None:
    with silent() as url:
        started = time.perf_counter()
        with pytest.raises(DeadlineExceeded, match="within 150 ms") as caught:
            kind(url).predict(SEEN, deterministic=True, timeout=0.15)
    assert 0.14 < time.perf_counter() - started < 10.0
    assert caught.value.outage


@KINDS
def test_a_deadline_holds_where_an_answer_drips(server: Scripted, kind: Any) -> None:
    server.answers = [Answer(drip_s=0.05)]  # the whole takes over four seconds
    started = time.perf_counter()
    with pytest.raises(DeadlineExceeded):
        kind(server.url).predict(SEEN, deterministic=True, timeout=0.3)
    assert time.perf_counter() - started < 4.0


@KINDS
@pytest.mark.parametrize(
    ("status", "code"), [(503, "SERVICE_UNAVAILABLE"), (429, "RESOURCE_EXHAUSTED")]
)
def test_retries_when_the_service_says_when(
    server: Scripted, kind: Any, status: int, code: str
) -> None:
    server.answers = [error(status, code, Retry_After="0.2"), Answer()]
    started = time.perf_counter()
    answer = kind(server.url).predict(SEEN)  # sampled, and nothing was computed
    assert time.perf_counter() - started >= 0.2
    assert answer.latency_ms >= 200.0
    assert len(server.requests) == 2
    assert int(server.heads[1]["x-deadline-ms"]) <= 19_800  # what is left


@KINDS
def test_no_retry_that_cannot_end_in_time(server: Scripted, kind: Any) -> None:
    server.answers = [error(503, "SERVICE_UNAVAILABLE", Retry_After="60")]
    started = time.perf_counter()
    with pytest.raises(ServiceUnavailable) as caught:
        kind(server.url).predict(SEEN, deterministic=True)
    assert time.perf_counter() - started < 15.0
    assert caught.value.retry_after_s == 60.0
    assert len(server.requests) == 1


@KINDS
@pytest.mark.parametrize(
    "failure", [error(503, "SERVICE_UNAVAILABLE"), error(502, "INFERENCE_ERROR")]
)
def test_no_retry_where_the_service_does_not_ask_for_it(
    server: Scripted, kind: Any, failure: Answer
) -> None:
    server.answers = [failure]
    with pytest.raises(PolicyError) as caught:
        kind(server.url).predict(SEEN, deterministic=True)
    assert (caught.value.request_id, caught.value.message) == ("abc", "so it is")
    assert len(server.requests) == 1


@KINDS
@pytest.mark.parametrize("options", [{"deterministic": True}, {"seed": 1}])
def test_a_lost_answer_is_asked_for_again(
    server: Scripted, kind: Any, options: dict[str, Any]
) -> None:
    server.answers = [Answer(drop=True), Answer()]
    assert kind(server.url).predict(SEEN, **options).version == "v0.2.0"
    assert len(server.requests) == 2


@KINDS
def test_a_lost_sampled_answer_is_not(server: Scripted, kind: Any) -> None:
    server.answers = [Answer(drop=True), Answer()]
    with pytest.raises(ConnectionFailed):
        kind(server.url).predict(SEEN)
    assert len(server.requests) == 1


@KINDS
def test_retries_have_an_end(server: Scripted, kind: Any) -> None:
    server.answers = [Answer(drop=True)]
    with pytest.raises(ConnectionFailed):
        kind(server.url, retries=1).predict(SEEN, deterministic=True)
    assert len(server.requests) == 2


@KINDS
def test_a_refused_connection_is_named(kind: Any) -> None:
    url = nobody()
    with pytest.raises(ConnectionFailed, match=url) as caught:
        kind(url).predict(SEEN)
    assert caught.value.unsent
    assert caught.value.request_id is None


def test_a_refused_connection_is_tried_again_with_growing_jittered_pauses() -> None:
    refused = ConnectionFailed("refused", unsent=True)
    pauses = []
    for _ in range(50):
        retries = Retries(Call("POST", "/predict", repeatable=False), Deadline(60.0), 4)
        pauses.append([retries.pause(refused) for _ in range(4)])
        with pytest.raises(ConnectionFailed):
            retries.pause(refused)
    highest = np.max(pauses, axis=0)
    assert np.all(highest <= [0.05, 0.1, 0.2, 0.4])
    assert highest[3] > 0.1
    assert len({tuple(each) for each in pauses}) == 50


def test_a_code_of_the_future_is_told_as_it_is(server: Scripted) -> None:
    server.answers = [error(418, "TEAPOT")]
    with (
        PolicyClient(server.url, timeout=20.0) as client,
        pytest.raises(PolicyError, match="TEAPOT") as caught,
    ):
        client.metadata()
    assert caught.value.code == "TEAPOT"


def test_every_code_of_the_gateway_has_its_exception() -> None:
    codes = {kind.code for kind in gateway_errors.GatewayError.__subclasses__()}
    # What only a wrong request or a broken service gets is told by its code.
    assert codes - set(BY_CODE) <= {"UNSUPPORTED", "UNSUPPORTED_MEDIA_TYPE", "PAYLOAD_TOO_LARGE"}
    assert set(BY_CODE) <= codes
    assert BY_CODE["RESOURCE_EXHAUSTED"] is ResourceExhausted


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after("1.5") == 1.5
    assert retry_after("-3") == 0.0
    assert 50.0 < (retry_after(formatdate(time.time() + 60, usegmt=True)) or 0.0) <= 60.0
    assert retry_after("soon") is None
    assert retry_after("nan") is None
    assert retry_after(None) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"url": "localhost:8080"}, "http://"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": math.inf}, "timeout is inf"),
        ({"retries": -1}, "retries is -1"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PolicyClient(**{"url": "http://127.0.0.1:8080", **arguments})


def test_a_path_before_the_api_is_kept(server: Scripted) -> None:
    with PolicyClient(f"{server.url}/cars/", timeout=20.0) as client:
        assert client.predict(SEEN, deterministic=True).version == "v0.2.0"
        _, request = client._requests.write(Call("GET", "/metadata"), Deadline(1.0))
        assert request.url.target == b"/cars/metadata"


def test_both_clients_have_the_same_methods() -> None:
    for name in ("__init__", "predict", "metadata", "versions", "health", "warmup"):
        one, twin = (getattr(kind, name) for kind in (PolicyClient, AsyncPolicyClient))
        assert inspect.signature(one) == inspect.signature(twin), name


def test_what_is_exported_is_there() -> None:
    assert all(hasattr(carlarl_client, name) for name in carlarl_client.__all__)
