"""The log: JSON lines, what is in them and what never is, floods, changes at run time."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
import yaml

from gateway.observability.log_rate_limit import LINES_PER_S
from tests.gateway.processes import OBSERVATION, predict, until
from tests.gateway.stand_in import StandIn
from tests.gateway.streams import stream
from tests.gateway.test_configuration import PATIENT, Running, running

JSON = {"log_format": "json"}


@pytest.fixture(scope="module")
def triton() -> Iterator[StandIn]:
    stand_in = StandIn()
    stand_in.start()
    yield stand_in
    stand_in.stop()


@pytest.fixture(scope="module")
def shared(triton: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("logs")
    content = {"defaults": PATIENT, "profiles": {"production": JSON}}
    (folder / "carlarl.yaml").write_text(yaml.safe_dump(content))
    with running(folder, TRITON_URL=triton.url) as one:
        yield one


@pytest.fixture
def gateway(shared: Running, triton: StandIn) -> Iterator[Running]:
    """A gateway whose log is as its test sets it."""
    yield shared
    triton.mode = "ok"


def now(one: Running, **settings: str) -> None:
    """Change the log's settings, and wait no longer than need be until they are in force."""
    one.changes += 1
    one.write(rate_limit_burst=one.changes, **settings)
    one.process.send_signal(signal.SIGHUP)
    one.logs(f"rate_limit_burst={one.changes}, ")


def events(one: Running, logger: str = "gateway.observability.access_log") -> list[dict[str, Any]]:
    """What a logger has written in JSON; every line but those in the text form is an object."""
    lines = one.log.read_text().splitlines()
    written = [json.loads(line) for line in lines if not re.match(r"\d{4}-", line)]
    return [line for line in written if line["logger"] == logger]


def event(one: Running, request_id: str) -> dict[str, Any]:
    """Wait for the one line of a request."""
    until(lambda: any(line.get("request_id") == request_id for line in events(one)))
    (found,) = [line for line in events(one) if line.get("request_id") == request_id]
    return found


def test_one_line_for_each_request(gateway: Running) -> None:
    now(gateway, **JSON, access_log="all")
    name = "one"
    body = {"observations": [OBSERVATION], "seed": 1234567890123}
    headers = {"X-Request-ID": name}
    httpx.post(gateway.url + "/predict", json=body, headers=headers).raise_for_status()
    line = event(gateway, name)
    written = datetime.fromisoformat(line.pop("time"))
    assert written.utcoffset() == timedelta(0)
    assert abs(written.timestamp() - time.time()) < 60
    assert 0 < line.pop("latency_ms") < 20_000
    assert re.fullmatch(rf"POST /predict 200 in [\d.]+ ms, v0.2.0, request {name}", line["message"])
    del line["message"]
    assert line == {
        "level": "INFO",
        "logger": "gateway.observability.access_log",
        "request_id": name,
        "route": "/predict",
        "method": "POST",
        "status": 200,
        "version": "v0.2.0",
    }
    assert "1234567890123" not in gateway.log.read_text()


def test_each_step_of_a_stream_has_a_line(gateway: Running) -> None:
    now(gateway, **JSON, access_log="all")
    with stream(gateway.url, additional_headers={"X-Request-ID": "car"}) as vehicle:
        vehicle.ask(0)
        vehicle.ask(1, version="v9.9.9")
    told = [
        (line["route"], line["method"], line["status"], line["version"], line.get("error"))
        for line in [event(gateway, "car-1"), event(gateway, "car-2") | {"version": None}]
    ]
    assert told == [
        ("/stream", "WS", 200, "v0.2.0", None),
        ("/stream", "WS", 404, None, "MODEL_NOT_FOUND"),
    ]


def test_errors_have_a_line_and_other_answers_none(gateway: Running, triton: StandIn) -> None:
    def ask(name: str, body: dict[str, Any]) -> None:
        httpx.post(gateway.url + "/predict", json=body, headers={"X-Request-ID": name})

    now(gateway, **JSON)
    good = {"observations": [OBSERVATION]}
    ask("good", good)
    ask("wrong", {"observations": []})
    triton.mode = "status 500 CUDA error"
    ask("failed", good)
    line = event(gateway, "failed")
    assert (line["level"], line["status"], line["error"]) == ("WARNING", 502, "INFERENCE_ERROR")
    assert line["version"] == "v0.2.0"
    line = event(gateway, "wrong")
    assert (line["level"], line["status"], line["error"]) == ("INFO", 422, "VALIDATION_ERROR")
    assert all(line.get("request_id") != "good" for line in events(gateway))


def test_none(gateway: Running) -> None:
    now(gateway, **JSON, access_log="none")
    before = len(events(gateway))
    assert httpx.get(gateway.url + "/nowhere").status_code == 404
    now(gateway, **JSON)
    httpx.get(gateway.url + "/nowhere", headers={"X-Request-ID": "told"})
    event(gateway, "told")
    assert len(events(gateway)) == before + 1


def test_no_query_key_or_path_of_a_caller(gateway: Running) -> None:
    now(gateway, **JSON, access_log="all", log_level="debug")
    headers = {"X-API-Key": "hush-key", "Authorization": "Bearer hush-token", "X-Request-ID": "h"}
    for path in ("/versions?token=hush-query", "/hush-path?x=hush-query"):
        httpx.get(gateway.url + path, headers=headers)
    until(lambda: sum(line.get("request_id") == "h" for line in events(gateway)) == 2)
    assert [x["route"] for x in events(gateway)][-2:] == ["/versions", "unmatched"]
    assert "hush" not in gateway.log.read_text()


def test_probes_are_quiet(gateway: Running) -> None:
    """Their answers are written at level debug alone."""

    def probe(name: str) -> None:
        for path in ("/healthz", "/livez", "/readyz", "/metrics"):
            httpx.get(gateway.url + path, headers={"X-Request-ID": name})

    now(gateway, **JSON, access_log="all")
    probe("quiet")
    now(gateway, **JSON, access_log="all", log_level="debug")
    probe("probe")
    told = [line for line in events(gateway) if line.get("request_id") in ("quiet", "probe")]
    assert [line["request_id"] for line in told] == ["probe"] * 4
    assert {line["level"] for line in told} == {"DEBUG"}


def test_form_and_level_change_while_it_serves(gateway: Running) -> None:
    now(gateway, access_log="all")
    httpx.get(gateway.url + "/versions", headers={"X-Request-ID": "as-text"})
    gateway.logs("INFO     gateway.observability.access_log: GET /versions 200 in ")
    now(gateway, **JSON, access_log="all", log_level="warning")
    httpx.get(gateway.url + "/versions", headers={"X-Request-ID": "below"})
    now(gateway, **JSON, access_log="all", log_level="info")
    httpx.get(gateway.url + "/versions", headers={"X-Request-ID": "above"})
    event(gateway, "above")
    assert "below" not in gateway.log.read_text()


def test_a_trace_is_one_field(gateway: Running, triton: StandIn) -> None:
    triton.mode = "garbage"
    assert predict(gateway.url).status_code == 502
    gateway.logs("cannot be read")
    line = events(gateway, "gateway.triton.client")[-1]
    assert (line["level"], line["trace"].splitlines()[0]) == (
        "ERROR",
        "Traceback (most recent call last):",
    )


def test_a_flood_is_counted(gateway: Running, triton: StandIn) -> None:
    """Neither answers nor what else is said of each of them has a line for all of them."""
    asked = [0] * 8

    def ask(number: int) -> None:
        with httpx.Client(timeout=20) as client:
            while time.monotonic() < end:
                gateway.post(client)
                asked[number] += 1

    now(gateway, **JSON)
    triton.mode = "status 500 out of memory"
    before, began = len(events(gateway)), time.monotonic()
    end = began + 2.0
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - began
    if sum(asked) < 2 * LINES_PER_S * seconds:
        pytest.skip(f"this machine sent {sum(asked)} requests only")

    def told() -> int:
        fresh = events(gateway)[before:]
        omitted = [
            line["omitted_of"]["502"]
            for line in events(gateway, "gateway.observability.log_rate_limit")
            if line["message"].endswith("of them 502")
        ]
        return len(fresh) + sum(omitted)

    until(lambda: told() == sum(asked))
    assert len(events(gateway)) - before <= LINES_PER_S * (seconds + 1)
    assert len(events(gateway, "gateway.triton.client")) <= LINES_PER_S * (seconds + 1) + 2
