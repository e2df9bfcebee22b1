"""What the gateway makes of everything that Triton can answer.

These use the stand-in of `stand_in.py`, because a real Triton can't be made to misbehave in
each of these ways on demand.
"""

import time
from collections.abc import Callable

import httpx
import numpy as np
import pytest

from tests.gateway.processes import check_envelope, predict, status, until
from tests.gateway.stand_in import ACTION, StandIn

QUEUE_FULL = "status 503 [request id: x] Exceeds maximum queue size"


@pytest.mark.parametrize("count", [1, 1000])
@pytest.mark.parametrize(
    ("mode", "code", "error"),
    [
        (QUEUE_FULL, 429, "RESOURCE_EXHAUSTED"),
        ("nan", 502, "INFERENCE_ERROR"),
        ("inf", 502, "INFERENCE_ERROR"),
        ("shape", 502, "INFERENCE_ERROR"),
        ("garbage", 502, "INFERENCE_ERROR"),
        ("status 500 a python trace", 502, "INFERENCE_ERROR"),
        ("status 400 unexpected shape for input", 502, "INFERENCE_ERROR"),
        ("status 400 Request for unknown model: 'm' has no available versions", 503, None),
        ("status 503 the server is shutting down", 503, "SERVICE_UNAVAILABLE"),
        ("status 404 Request for unknown model: 'm' is not found", 404, "MODEL_NOT_FOUND"),
        ("closed", 503, "SERVICE_UNAVAILABLE"),
        ("hang", 504, "DEADLINE_EXCEEDED"),
    ],
)
def test_misbehaviour(
    stand_in: StandIn, stand_in_gateway: str, mode: str, code: int, error: str | None, count: int
) -> None:
    stand_in.mode = mode
    start = time.monotonic()
    response = predict(stand_in_gateway, count)
    assert time.monotonic() - start < 2
    check_envelope(response, code, error or "SERVICE_UNAVAILABLE")
    assert ("retry-after" in response.headers) == (code in (429, 503))
    assert "trace" not in response.text
    stand_in.mode = "ok"
    good = predict(stand_in_gateway)
    assert good.status_code == 200
    assert good.json()["actions"] == [
        dict(zip(("throttle", "brake", "steer"), ACTION, strict=True))
    ]


def test_what_is_sent(stand_in: StandIn, stand_in_gateway: str) -> None:
    answer = predict(stand_in_gateway, 600, seed=7).json()
    assert (answer["seed"], answer["deterministic"], len(answer["actions"])) == (7, False, 600)
    calls = sorted(stand_in.calls, key=lambda call: call["row"][0, 0])
    assert [len(call["row"]) for call in calls] == [256, 256, 88]
    joined = {name: np.concatenate([call[name] for call in calls]) for name in calls[0]}
    assert joined["row"].tolist() == [[row] for row in range(600)]
    assert joined["seed"].tolist() == [[7]] * 600
    assert not joined["deterministic"].any()
    assert joined["sensors"].dtype == np.float32
    assert joined["sensors"].shape == (600, 5)
    assert joined["speed"].tolist() == [[25.5]] * 600


def test_seeds(stand_in: StandIn, stand_in_gateway: str) -> None:
    drawn = [predict(stand_in_gateway).json()["seed"] for _ in range(3)]
    assert len(set(drawn)) == 3
    assert [call["seed"].item() for call in stand_in.calls] == drawn
    assert "seed" not in predict(stand_in_gateway, deterministic=True, seed=5).json()
    assert stand_in.calls[-1]["deterministic"].item() is True


def test_versions_are_those_that_are_ready(stand_in: StandIn, stand_in_gateway: str) -> None:
    answer = httpx.get(stand_in_gateway + "/versions").json()
    assert answer["active"] == "v0.2.0"
    assert [entry["version"] for entry in answer["versions"]] == ["v0.1.0", "v0.2.0"]


def test_following(run_gateway: Callable[..., str]) -> None:
    """Promotion, a bad promotion, and Triton away and back, each seen within two seconds or so."""
    stand_in = StandIn()
    stand_in.start()
    url = run_gateway(TRITON_URL=stand_in.url)

    def active() -> str:
        return predict(url).json().get("version", "")

    assert active() == "v0.2.0"
    stand_in.active = "v0.1.0"
    until(lambda: active() == "v0.1.0")
    text = httpx.get(url + "/metrics").text
    assert _series(text, 'version="v0.2.0"') == "0.0"
    assert _series(text, 'version="v0.1.0"') == "1.0"

    stand_in.golden_action = (0.1, 0.1, 0.1)
    stand_in.active = "v0.2.0"
    time.sleep(2)
    assert active() == "v0.1.0"
    assert status(url + "/readyz") == 200

    stand_in.golden_action = ACTION
    until(lambda: active() == "v0.2.0")

    stand_in.served = {"v0.1.0"}
    until(lambda: status(url + "/readyz") == 503)
    stand_in.served = {"v0.1.0", "v0.2.0"}
    until(lambda: status(url + "/readyz") == 200)

    stand_in.stop()
    until(lambda: status(url + "/readyz") == 503)
    check_envelope(predict(url), 503, "SERVICE_UNAVAILABLE")
    health = httpx.get(url + "/healthz").json()
    assert (health["status"], health["version"]) == ("degraded", "v0.2.0")
    stand_in.start()
    assert predict(url).status_code == 200
    until(lambda: status(url + "/readyz") == 200)
    stand_in.stop()


def _series(text: str, label: str) -> str:
    (line,) = [
        line
        for line in text.splitlines()
        if line.startswith("carla_rl_active_version_info{") and label in line
    ]
    return line.rpartition(" ")[2]


def test_a_gateway_that_never_saw_its_golden_actions_is_not_ready(
    run_gateway: Callable[..., str],
) -> None:
    stand_in = StandIn()
    stand_in.golden_action = (0.1, 0.1, 0.1)
    stand_in.start()
    url = run_gateway("/livez", TRITON_URL=stand_in.url)
    time.sleep(1)
    check_envelope(httpx.get(url + "/readyz"), 503, "SERVICE_UNAVAILABLE")
    check_envelope(predict(url), 503, "SERVICE_UNAVAILABLE")
    stand_in.golden_action = ACTION
    until(lambda: status(url + "/readyz") == 200, 4)
    stand_in.stop()


def test_a_pinned_version(stand_in: StandIn, run_gateway: Callable[..., str]) -> None:
    url = run_gateway(TRITON_URL=stand_in.url, MODEL_VERSION="v0.1.0")
    assert predict(url).json()["version"] == "v0.1.0"
    assert predict(url, version="v0.2.0").json()["version"] == "v0.2.0"
    assert httpx.get(url + "/versions").json()["active"] == "v0.1.0"


def test_readiness_says_what_is_wrong(lone_gateway: str) -> None:
    answer = httpx.get(lone_gateway + "/readyz").json()
    assert "not ready: nobody answers at TRITON_URL=http://127.0.0.1:" in answer["message"]


@pytest.mark.parametrize("mode", ["nan", "hang", "status 500 dead"])
def test_ready_models_that_do_not_answer_are_not_ready(
    stand_in: StandIn, stand_in_gateway: str, mode: str
) -> None:
    until(lambda: status(stand_in_gateway + "/readyz") == 200, 5)
    stand_in.mode = mode
    assert until(lambda: status(stand_in_gateway + "/readyz") == 503, 4) < 3
    stand_in.mode = "ok"
    until(lambda: status(stand_in_gateway + "/readyz") == 200, 8)


def test_a_queue_that_is_full_is_still_ready(stand_in: StandIn, stand_in_gateway: str) -> None:
    until(lambda: status(stand_in_gateway + "/readyz") == 200, 5)
    stand_in.mode = QUEUE_FULL
    time.sleep(1.5)
    assert status(stand_in_gateway + "/readyz") == 200


def test_a_warm_up_has_the_deadline_too(stand_in: StandIn, stand_in_gateway: str) -> None:
    until(lambda: status(stand_in_gateway + "/readyz") == 200, 5)
    stand_in.mode = "hang"
    start = time.monotonic()
    response = httpx.post(stand_in_gateway + "/warmup", timeout=10)
    assert time.monotonic() - start < 1
    check_envelope(response, 504, "DEADLINE_EXCEEDED")
