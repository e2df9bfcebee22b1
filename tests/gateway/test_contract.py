"""The JSON API in front of a real Triton that serves the default policy, v0.1.0 and v0.2.0."""

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from carlarl.serving import running
from tests.gateway.processes import OBSERVATION, check_envelope, status

NAMES = ("throttle", "brake", "steer")
BOUNDS = {"throttle": (0, 1), "brake": (0, 1), "steer": (-1, 1)}


@pytest.fixture
def api(gateway_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway_url, timeout=30) as client:
        yield client


@pytest.fixture
def good(api: httpx.Client) -> Iterator[None]:
    """After whatever a test sent, the next good request gets its action."""
    yield
    check_answer(api.post("/predict", json=request()), 1)


def observation(**changes: Any) -> dict[str, Any]:
    return {**OBSERVATION, **changes}


def request(*observations: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"observations": list(observations) or [OBSERVATION], "deterministic": True, **more}


def varied(count: int) -> list[dict[str, Any]]:
    return [
        {
            "speed": index % 201,
            "steering": math.sin(index),
            "sensors": [math.cos(index * k) for k in range(1, 6)],
        }
        for index in range(count)
    ]


def check_answer(response: httpx.Response, count: int, version: str = "v0.2.0") -> list[dict]:
    """Check that `response` holds `count` actions, and give them."""
    assert response.status_code == 200, response.text
    answer = response.json()
    expected = {"actions", "version", "timingMs", "deterministic"}
    assert set(answer) == (expected if answer["deterministic"] else expected | {"seed"})
    assert answer["version"] == version
    assert 0 < answer["timingMs"] < 30_000
    assert len(answer["actions"]) == count
    for action in answer["actions"]:
        assert tuple(action) == NAMES
        for name, value in action.items():
            low, high = BOUNDS[name]
            assert low <= value <= high
    return answer["actions"]


def check_invalid(response: httpx.Response, field: str, kind: str) -> None:
    details = check_envelope(response, 422, "VALIDATION_ERROR")
    problems = [(p["field"], p["type"]) for p in details["validation_errors"]]
    assert (field, kind) in problems
    assert all(p["message"] for p in details["validation_errors"])


# Actions.


def test_one_observation(api: httpx.Client) -> None:
    actions = check_answer(api.post("/predict", json=request()), 1)
    for _ in range(3):
        assert check_answer(api.post("/predict", json=request()), 1) == actions


def test_a_thousand_equal_the_single_ones_bitwise(api: httpx.Client) -> None:
    observations = varied(1000)
    together = check_answer(api.post("/predict", json=request(*observations)), 1000)
    assert len({tuple(action.values()) for action in together}) > 500
    for index in (*range(0, 1000, 37), 255, 256, 257, 511, 512, 999):
        alone = api.post("/predict", json=request(observations[index]))
        assert check_answer(alone, 1) == [together[index]]


def test_a_seed_repeats_a_sampled_answer(api: httpx.Client) -> None:
    content = {"observations": varied(300)}
    first = api.post("/predict", json=content)
    actions = check_answer(first, 300)
    seed = first.json()["seed"]
    assert 0 <= seed < 2**63
    again = api.post("/predict", json={**content, "seed": seed})
    assert check_answer(again, 300) == actions
    assert again.json()["seed"] == seed
    part = api.post("/predict", json={"observations": varied(300)[:2], "seed": seed})
    assert check_answer(part, 2) == actions[:2]
    other = api.post("/predict", json=content)
    assert other.json()["seed"] != seed
    assert check_answer(other, 300) != actions


@pytest.mark.parametrize("seed", [0, 1, 2**53 + 1, 2**63 - 1])
def test_seeds_inside(api: httpx.Client, seed: int) -> None:
    response = api.post("/predict", json=request(deterministic=False, seed=seed))
    check_answer(response, 1)
    assert response.json()["seed"] == seed


def test_a_seed_is_ignored_where_deterministic(api: httpx.Client) -> None:
    plain = check_answer(api.post("/predict", json=request()), 1)
    assert check_answer(api.post("/predict", json=request(seed=5)), 1) == plain


@pytest.mark.parametrize("version", ["v0.1.0", "v0.2.0"])
def test_versions_by_name(api: httpx.Client, version: str) -> None:
    check_answer(api.post("/predict", json=request(version=version)), 1, version)


def test_golden_actions(api: httpx.Client, triton_http: str) -> None:
    for version in ("v0.1.0", "v0.2.0"):
        config = httpx.get(f"http://{triton_http}/v2/models/carla_policy-{version}/config").json()
        golden = json.loads(config["parameters"]["golden"]["string_value"])
        content = request(*golden["observations"], version=version)
        actions = check_answer(api.post("/predict", json=content), len(golden["actions"]), version)
        for action, expected in zip(actions, golden["actions"], strict=True):
            assert list(action.values()) == pytest.approx(expected, abs=golden["tolerance"])


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("speed", [0, 200, 0.0, 200.0, 1e-300, 199.99999999]),
        ("steering", [-1, 1, 0, -0.0, 0.99999999999]),
        ("sensors", [[-1000] * 5, [1000] * 5, [0, 1, -1, 1e-45, 999.999999999]]),
    ],
)
def test_inside_the_bounds(api: httpx.Client, field: str, values: list[Any]) -> None:
    observations = [observation(**{field: value}) for value in values]
    check_answer(api.post("/predict", json=request(*observations)), len(values))


def test_many_callers_at_once_each_get_their_own(api: httpx.Client) -> None:
    observations = varied(64)
    expected = check_answer(api.post("/predict", json=request(*observations)), 64)

    def ask(index: int) -> list[dict]:
        return check_answer(api.post("/predict", json=request(observations[index])), 1)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(64)))
    assert [action for (action,) in answers] == expected


# Refusals, each followed by a good request.


@pytest.mark.usefixtures("good")
@pytest.mark.parametrize(
    ("changes", "field", "kind"),
    [
        ({"speed": -0.001}, "speed", "greater_than_equal"),
        ({"speed": 200.001}, "speed", "less_than_equal"),
        ({"steering": -1.001}, "steering", "greater_than_equal"),
        ({"steering": 1.001}, "steering", "less_than_equal"),
        ({"sensors": [0, 0, 0, 0, 1000.001]}, "sensors.4", "less_than_equal"),
        ({"sensors": [-1000.001, 0, 0, 0, 0]}, "sensors.0", "greater_than_equal"),
        ({"sensors": [1, 2, 3, 4]}, "sensors", "wrong_length"),
        ({"sensors": [1, 2, 3, 4, 5, 6]}, "sensors", "wrong_length"),
        ({"sensors": []}, "sensors", "wrong_length"),
        ({"sensors": "12345"}, "sensors", "list_type"),
        ({"sensors": None}, "sensors", "list_type"),
        ({"sensors": {"a": 1}}, "sensors", "list_type"),
        ({"sensors": [1, 2, 3, 4, "5"]}, "sensors.4", "float_type"),
        ({"sensors": [1, 2, 3, 4, True]}, "sensors.4", "float_type"),
        ({"sensors": [1, 2, 3, 4, None]}, "sensors.4", "float_type"),
        ({"sensors": [1, 2, 3, 4, [5]]}, "sensors.4", "float_type"),
        ({"speed": "25"}, "speed", "float_type"),
        ({"speed": True}, "speed", "float_type"),
        ({"speed": None}, "speed", "float_type"),
        ({"steering": "0"}, "steering", "float_type"),
        ({"steering": False}, "steering", "float_type"),
        ({"gear": 1}, "gear", "extra_forbidden"),
    ],
)
def test_a_bad_observation(api: httpx.Client, changes: dict, field: str, kind: str) -> None:
    response = api.post("/predict", json=request(OBSERVATION, observation(**changes)))
    check_invalid(response, f"observations.1.{field}", kind)


@pytest.mark.usefixtures("good")
@pytest.mark.parametrize("literal", ["1e400", "-1e400"])
@pytest.mark.parametrize("field", ["speed", "steering", "sensors.2"])
def test_a_number_that_is_not_finite(api: httpx.Client, field: str, literal: str) -> None:
    name = field.partition(".")[0]
    changes = {name: [0, 0, 987, 0, 0] if name == "sensors" else 987}
    content = json.dumps(request(observation(**changes))).replace("987", literal)
    check_invalid(api.post("/predict", content=content), f"observations.0.{field}", "finite_number")


@pytest.mark.usefixtures("good")
@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
def test_json_has_no_such_numbers(api: httpx.Client, literal: str) -> None:
    content = json.dumps(request(observation(speed=987))).replace("987", literal)
    check_invalid(api.post("/predict", content=content), "body", "json_invalid")


@pytest.mark.usefixtures("good")
@pytest.mark.parametrize("field", ["speed", "steering", "sensors"])
def test_a_missing_field(api: httpx.Client, field: str) -> None:
    short = {name: value for name, value in OBSERVATION.items() if name != field}
    check_invalid(api.post("/predict", json=request(short)), f"observations.0.{field}", "missing")


@pytest.mark.usefixtures("good")
@pytest.mark.parametrize(
    ("content", "field", "kind"),
    [
        ({}, "observations", "missing"),
        ({"observations": []}, "observations", "too_short"),
        ({"observations": [OBSERVATION] * 1001}, "observations", "too_long"),
        ({"observations": OBSERVATION}, "observations", "list_type"),
        ({"observations": None}, "observations", "list_type"),
        ({"observations": [None]}, "observations.0", "model_type"),
        ({"observations": [[1, 2]]}, "observations.0", "model_type"),
        (request(determinstic=True), "determinstic", "extra_forbidden"),
        (request(deterministic=1), "deterministic", "bool_type"),
        (request(deterministic="true"), "deterministic", "bool_type"),
        (request(deterministic=None), "deterministic", "bool_type"),
        (request(seed=-1), "seed", "greater_than_equal"),
        (request(seed=2**63), "seed", "less_than_equal"),
        (request(seed=1.5), "seed", "int_type"),
        (request(seed=True), "seed", "int_type"),
        (request(seed="1"), "seed", "int_type"),
        (request(version=1), "version", "string_type"),
        (request(version="latest"), "version", "string_pattern_mismatch"),
        (request(version="v0.1.0/../x"), "version", "string_pattern_mismatch"),
        ([OBSERVATION], "body", "model_type"),
        (None, "body", "model_type"),
    ],
)
def test_a_bad_request(api: httpx.Client, content: Any, field: str, kind: str) -> None:
    response = api.post(
        "/predict", content=json.dumps(content), headers={"Content-Type": "application/json"}
    )
    check_invalid(response, field, kind)


@pytest.mark.usefixtures("good")
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"nonsense", b'{"observations": [', b"\xff\xfe\x00", b"{}x"],
)
def test_malformed_json(api: httpx.Client, content: bytes) -> None:
    check_invalid(api.post("/predict", content=content), "body", "json_invalid")


@pytest.mark.usefixtures("good")
def test_truncated_json(api: httpx.Client) -> None:
    whole = json.dumps(request()).encode()
    for length in range(1, len(whole), 7):
        check_invalid(api.post("/predict", content=whole[:length]), "body", "json_invalid")


@pytest.mark.usefixtures("good")
def test_the_last_of_two_equal_names_wins(api: httpx.Client) -> None:
    content = json.dumps(request()).replace('"speed"', '"speed": 1, "speed"')
    once = check_answer(api.post("/predict", json=request()), 1)
    assert check_answer(api.post("/predict", content=content), 1) == once


@pytest.mark.usefixtures("good")
def test_an_unknown_version(api: httpx.Client) -> None:
    for _ in range(2):
        response = api.post("/predict", json=request(version="v9.9.9"))
        assert check_envelope(response, 404, "MODEL_NOT_FOUND")["version"] == "v9.9.9"


@pytest.mark.usefixtures("good")
@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "multipart/form-data"])
def test_a_body_that_is_not_json(api: httpx.Client, kind: str) -> None:
    response = api.post("/predict", content=json.dumps(request()), headers={"Content-Type": kind})
    check_envelope(response, 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(
    "kind", [None, "application/json; charset=utf-8", "application/x.carla+json"]
)
def test_a_body_that_is_json(api: httpx.Client, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    response = api.post("/predict", content=json.dumps(request()).encode(), headers=headers)
    check_answer(response, 1)


@pytest.mark.usefixtures("good")
def test_a_body_over_the_limit(api: httpx.Client) -> None:
    limit = 1_048_576
    whole = json.dumps(request()).encode()
    check_answer(api.post("/predict", content=whole.ljust(limit)), 1)
    too_large = whole.ljust(limit + 1)
    check_envelope(api.post("/predict", content=too_large), 413, "PAYLOAD_TOO_LARGE")
    chunks = (too_large[start : start + 65_536] for start in range(0, len(too_large), 65_536))
    check_envelope(api.post("/predict", content=chunks), 413, "PAYLOAD_TOO_LARGE")


def test_a_body_in_chunks(api: httpx.Client) -> None:
    whole = json.dumps(request()).encode()
    chunks = (whole[start : start + 10] for start in range(0, len(whole), 10))
    check_answer(api.post("/predict", content=chunks), 1)


@pytest.mark.usefixtures("good")
def test_unknown_routes_and_methods(api: httpx.Client) -> None:
    check_envelope(api.get("/nope"), 404, "HTTP_ERROR")
    answer = api.get("/")
    assert (answer.status_code, answer.headers["location"]) == (307, "/console")
    check_envelope(api.post("/predictions", json=request()), 404, "HTTP_ERROR")
    response = api.get("/predict")
    check_envelope(response, 405, "HTTP_ERROR")
    assert response.headers["allow"] == "POST"


# The other routes.


def test_health(api: httpx.Client) -> None:
    answer = api.get("/healthz").json()
    assert set(answer) == {"status", "version", "git", "device", "timestamp"}
    assert (answer["status"], answer["version"]) == ("ok", "v0.2.0")
    assert answer["device"] in ("cpu", "cuda")
    assert re.fullmatch(r"unknown|[0-9a-f]{4,40}", answer["git"])
    assert abs(answer["timestamp"] - time.time()) < 60
    assert api.get("/livez").json() == {"status": "alive"}
    assert api.get("/readyz").json() == {"status": "ready", "version": "v0.2.0"}


def test_metadata(api: httpx.Client) -> None:
    answer = api.get("/metadata").json()
    assert answer["modelName"] == "carla-ppo"
    assert answer["version"] == "v0.2.0"
    assert answer["device"] in ("cpu", "cuda")
    assert answer["inputShape"] == [-1, 7]
    ranges = {"throttle": [0, 1], "brake": [0, 1], "steer": [-1, 1]}
    bounds = {"names": list(NAMES), "low": [0, 0, -1], "high": [1, 1, 1]}
    assert answer["actionSpace"] == bounds | ranges
    assert list(answer["observationSpace"]["subspaces"]) == ["speed", "steering", "sensors"]
    assert answer["policyActionSpace"]["shape"] == [3]
    assert answer["control"] == {"layout": list(NAMES)}
    assert answer["stateful"] is False
    check_answer(api.post("/predict", json=request(answer["exampleObservation"])), 1)
    assert answer["sensors"] == 5
    assert answer["format"] in answer["formats"]
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", answer["artifactDigest"])
    assert answer["modelCard"]["version"] == "v0.2.0"
    assert answer["certificate"] is None or isinstance(answer["certificate"], dict)
    assert answer["maxBatchSize"] >= 1


def test_versions(api: httpx.Client) -> None:
    answer = api.get("/versions").json()
    assert answer["active"] == "v0.2.0"
    listed = answer["versions"]
    assert [entry["version"] for entry in listed] == ["v0.1.0", "v0.2.0"]
    assert [entry["active"] for entry in listed] == [False, True]
    for entry in listed:
        assert set(entry) == {
            "version",
            "active",
            "formats",
            "artifactDigest",
            "description",
            "performanceMetrics",
        }
    assert listed[0]["artifactDigest"] != listed[1]["artifactDigest"]


@pytest.mark.parametrize("content", [b"", b"{}"])
def test_warmup(api: httpx.Client, content: bytes) -> None:
    answer = api.post("/warmup", content=content).json()
    assert (answer["status"], answer["version"]) == ("warmed", "v0.2.0")
    assert answer["timingMs"] > 0
    assert answer["device"] in ("cpu", "cuda")


@pytest.mark.usefixtures("good")
def test_warmup_takes_nothing(api: httpx.Client) -> None:
    check_invalid(api.post("/warmup", json={"version": "v0.1.0"}), "version", "extra_forbidden")
    check_envelope(
        api.post("/warmup", content=b"x", headers={"Content-Type": "text/plain"}),
        415,
        "UNSUPPORTED_MEDIA_TYPE",
    )


def test_metrics_count(api: httpx.Client) -> None:
    def read(name: str) -> float:
        lines = api.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    names = (
        "carla_rl_observations_total",
        'carla_rl_requests_total{method="POST",route="/predict",status="200"}',
        "carla_rl_inference_seconds_count",
    )
    before = [read(name) for name in names]
    check_answer(api.post("/predict", json=request(*varied(600))), 600)
    after = [read(name) for name in names]
    counted = [b - a for a, b in zip(before, after, strict=True)]
    assert counted[:2] == [600, 1]
    assert counted[2] >= 1
    assert read("carla_rl_ready") == 1
    assert read("carla_rl_active_version_info") == 1


def test_documents(api: httpx.Client) -> None:
    for path in ("/docs", "/redoc"):
        response = api.get(path)
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/html")
    document = api.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    speed = schemas["Observation"]["properties"]["speed"]
    assert (speed["minimum"], speed["maximum"]) == (0, 200)
    assert schemas["Action"]["properties"]["steer"]["minimum"] == -1
    example = schemas["PredictRequest"]["examples"][0]
    check_answer(api.post("/predict", json=example), 1)


def test_every_answer_has_its_id_and_its_time(api: httpx.Client) -> None:
    paths = ["/healthz", "/livez", "/readyz", "/metadata", "/versions", "/metrics", "/docs"]
    answers = [api.get(path, headers={"X-Request-ID": "my-id.7"}) for path in [*paths, "/nope"]]
    answers += [api.post("/predict", json=c, headers={"X-Request-ID": "my-id.7"}) for c in (1, {})]
    for answer in answers:
        assert answer.headers["x-request-id"] == "my-id.7"
        assert 0 <= float(answer.headers["x-process-time"]) < 30
    drawn = {api.get("/livez").headers["x-request-id"] for _ in range(5)}
    assert len(drawn) == 5


# Gateways of one's own in front of the same Triton.


def test_a_pinned_version(run_gateway: Callable[..., str], triton_http: str) -> None:
    triton = f"http://{triton_http}"
    served = running.embedded_at(triton)
    assert served is not None
    secret = str(served.secret)
    url = run_gateway(TRITON_URL=triton, MODEL_VERSION="v0.1.0", TRITON_SECRET=secret)
    check_answer(httpx.post(url + "/predict", json=request()), 1, "v0.1.0")
    assert httpx.get(url + "/metadata").json()["version"] == "v0.1.0"
    assert httpx.get(url + "/versions").json()["active"] == "v0.1.0"


@pytest.mark.parametrize("secret", ["", "another-secret"])
def test_a_triton_that_is_closed_to_this_gateway(
    run_gateway: Callable[..., str], triton_http: str, secret: str
) -> None:
    """It answers predictions; what it must not list it says so of."""
    url = run_gateway(TRITON_URL=f"http://{triton_http}", TRITON_SECRET=secret)
    assert httpx.post(url + "/predict", json=request()).status_code == 200
    response = httpx.get(url + "/versions")
    check_envelope(response, 502, "INFERENCE_ERROR")
    assert "TRITON_SECRET is not its secret" in response.text
    assert "carlarl-secret" not in response.text


def test_a_pinned_version_that_is_not_there(
    run_gateway: Callable[..., str], triton_http: str
) -> None:
    url = run_gateway("/livez", TRITON_URL=f"http://{triton_http}", MODEL_VERSION="v9.9.9")
    time.sleep(0.5)
    check_envelope(httpx.get(url + "/readyz"), 503, "SERVICE_UNAVAILABLE")
    check_answer(httpx.post(url + "/predict", json=request(version="v0.1.0")), 1, "v0.1.0")


def test_a_deadline_that_cannot_be_met(run_gateway: Callable[..., str], triton_http: str) -> None:
    url = run_gateway(TRITON_URL=f"http://{triton_http}", REQUEST_TIMEOUT_MS="1")
    response = httpx.post(url + "/predict", json=request(*varied(1000)))
    check_envelope(response, 504, "DEADLINE_EXCEEDED")
    assert status(url + "/readyz") == 200
