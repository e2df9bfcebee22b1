"""Tracing where they are off, where nobody takes them, and where they can't be sent."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from gateway.config.settings import SettingsError
from gateway.observability import otlp
from gateway.observability.tracing import Tracing
from tests.gateway.processes import OBSERVATION, ROOT, free_port, until
from tests.gateway.stand_in import StandIn
from tests.gateway.test_configuration import running
from tests.otlp import Receiver

BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"
HEAVY = (
    "opentelemetry.sdk",
    "opentelemetry.exporter",
    "google",
    "requests",
    "gateway.observability.tracing",
)
"""FastAPI itself brings OpenTelemetry's API, which does nothing alone."""
BODY = {"observations": [OBSERVATION], "deterministic": True}


def ask(url: str, **headers: str) -> None:
    parent = f"00-{secrets.token_hex(16)}-b7ad6b7169203331-01"
    headers |= {"traceparent": parent, "tracestate": "a=1"}
    assert httpx.post(url + "/predict", json=BODY, headers=headers, timeout=20).is_success


def test_off_nothing_is_passed_on(stand_in: StandIn, stand_in_gateway: str) -> None:
    stand_in.heads.clear()
    ask(stand_in_gateway)
    (head,) = stand_in.heads
    assert not {"traceparent", "tracestate"} & {name.lower() for name in head}


@pytest.mark.parametrize(
    "variables", [{}, {BASE: "http://localhost:1", "OTEL_SDK_DISABLED": "true"}]
)
def test_off_nothing_is_imported(variables: dict[str, str]) -> None:
    code = (
        "import sys\n"
        "from gateway import server\n"
        "from gateway.observability import otlp\n"
        "from gateway.app import create_app\n"
        "from gateway.config.settings import read_settings\n"
        "otlp.check()\n"
        "create_app(read_settings())\n"
        f"print([name for name in sys.modules if name.startswith({HEAVY})])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_passed_on_with_the_state(stand_in: StandIn, run_gateway: Callable[..., str]) -> None:
    receiver = Receiver()
    receiver.start()
    url = run_gateway(TRITON_URL=stand_in.url, **{BASE: receiver.url})
    stand_in.heads.clear()
    ask(url)
    (head,) = stand_in.heads
    assert head["tracestate"] == "a=1"
    assert head["traceparent"].endswith("-01")
    receiver.stop()


def test_a_receiver_that_is_away_is_told_once(stand_in: StandIn, tmp_path: Path) -> None:
    """And once when it is back; meanwhile nobody waits for it, nor does the end."""
    receiver = Receiver(free_port())
    (tmp_path / "carlarl.yaml").write_text("profiles: {production: {shutdown_notice_s: 0}}")
    variables = {BASE: receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    variables |= {"OTEL_EXPORTER_OTLP_TIMEOUT": "0.2"}
    with running(tmp_path, TRITON_URL=stand_in.url, **variables) as one:
        for _ in range(3):
            for _ in range(3):
                ask(one.url)
            one.logs("traces can't be sent")
            time.sleep(0.3)  # some batches more
        assert one.log.read_text().count("can't be sent") == 1
        receiver.start()
        until(lambda: ask(one.url) is None and bool(receiver.spans))
        one.logs("traces are sent again")
        receiver.stop()
        ask(one.url)
    said = one.log.read_text()
    assert "Transient" not in said
    assert "Failed to export" not in said


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (None, {"": 1.0, "00": 0.0, "01": 1.0}),
        ("parentbased_always_off", {"": 0.0, "00": 0.0, "01": 1.0}),
        ("parentbased_traceidratio", {"": 0.25, "00": 0.0, "01": 1.0}),
        ("traceidratio", {"": 0.25, "00": 0.25, "01": 0.25}),
        ("always_on", {"": 1.0, "00": 1.0, "01": 1.0}),
    ],
)
def test_samplers(
    sampler: str | None, expected: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sampled without a caller's trace, and of one that is not sampled, or is."""
    monkeypatch.setenv(BASE, "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.25")
    if sampler is not None:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    traces = Tracing()
    for flags, share in expected.items():
        begun = []
        for _ in range(1000):
            trace_id = secrets.token_hex(16)
            given = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-{flags}"} if flags else {}
            trace = traces.begin("POST", "/predict", given)
            if trace is not None:
                assert trace.id == trace_id or not flags
                begun.append(trace.id)
        assert abs(len(begun) / 1000 - share) <= (0.08 if share == 0.25 else 0.0)
        assert len(set(begun)) == len(begun)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BASE, "http://localhost:4318")
    otlp.check()
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    monkeypatch.delitem(sys.modules, "gateway.observability.tracing")
    with pytest.raises(SettingsError, match=r"is missing: pip install -e '\.\[traces\]'"):
        otlp.check()


@pytest.mark.parametrize(
    ("variables", "url"),
    [
        ({}, None),
        ({BASE: ""}, None),
        ({BASE: "http://a:4318"}, "http://a:4318/v1/traces"),
        ({BASE: "http://a:4318/x/"}, "http://a:4318/x/v1/traces"),
        ({BASE: "http://a", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b/t"}, "http://b/t"),
        ({BASE: "http://a", "OTEL_SDK_DISABLED": "TRUE"}, None),
        ({BASE: "http://a", "OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_where_they_go(
    variables: dict[str, str], url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert otlp.traces_url() == url
    otlp.check()


def test_what_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BASE, "collector:4317")
    with pytest.raises(SettingsError, match=f"^{BASE}=collector:4317: must be an http or https"):
        otlp.check()
    monkeypatch.setenv(BASE, "http://collector:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(SettingsError, match="PROTOCOL=grpc: must be http/protobuf"):
        otlp.check()
