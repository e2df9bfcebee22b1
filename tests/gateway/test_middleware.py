"""What every request passes through, on a gateway whose Triton is away."""

import hashlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.gateway.processes import (
    OBSERVATION,
    check_envelope,
    free_port,
    gateway_process,
    held_port,
)

GOOD = json.dumps({"observations": [OBSERVATION]}).encode()
ROUTES = ("/healthz", "/livez", "/readyz", "/metadata", "/versions", "/predict", "/warmup")


def test_without_triton(lone_gateway: str) -> None:
    assert httpx.get(lone_gateway + "/livez").json() == {"status": "alive"}
    health = httpx.get(lone_gateway + "/healthz")
    assert health.status_code == 200
    answer = health.json()
    assert (answer["status"], answer["version"], answer["device"]) == ("degraded", None, None)
    assert answer["git"]
    for method, path in [
        ("GET", "/readyz"),
        ("GET", "/metadata"),
        ("GET", "/versions"),
        ("POST", "/warmup"),
    ]:
        response = httpx.request(method, lone_gateway + path)
        check_envelope(response, 503, "SERVICE_UNAVAILABLE")
        assert response.headers["retry-after"] == "1"
    for more in ({}, {"version": "v0.1.0"}):
        content = {"observations": [OBSERVATION], **more}
        response = httpx.post(lone_gateway + "/predict", json=content)
        check_envelope(response, 503, "SERVICE_UNAVAILABLE")
        assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("sent", ["a", "A-b_c.9", "x" * 128])
def test_a_sane_request_id_is_kept(lone_gateway: str, sent: str) -> None:
    for path in ("/livez", "/nope"):
        response = httpx.get(lone_gateway + path, headers={"X-Request-ID": sent})
        assert response.headers.get_list("x-request-id") == [sent]


@pytest.mark.parametrize("sent", [None, "", "x" * 129, "a b", "a/b", "é".encode(), "a\tb"])
def test_any_other_request_id_is_replaced(lone_gateway: str, sent: str | bytes | None) -> None:
    headers = {} if sent is None else {"X-Request-ID": sent}
    ids = {
        httpx.get(lone_gateway + "/livez", headers=headers).headers["x-request-id"] for _ in "12"
    }
    assert len(ids) == 2
    assert all(len(drawn) == 32 and int(drawn, 16) for drawn in ids)


@pytest.mark.parametrize("path", ["/docs/", "/nope", "/predict/", "/PREDICT", "/v2/models", "/%ff"])
def test_no_such_route(lone_gateway: str, path: str) -> None:
    check_envelope(httpx.get(lone_gateway + path), 404, "HTTP_ERROR")
    check_envelope(httpx.post(lone_gateway + path, content=b"x"), 404, "HTTP_ERROR")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/predict", "POST"),
        ("HEAD", "/warmup", "POST"),
        ("PUT", "/predict", "POST"),
        ("OPTIONS", "/predict", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
        ("DELETE", "/versions", "GET, HEAD"),
    ],
)
def test_no_such_method(lone_gateway: str, method: str, path: str, allow: str) -> None:
    response = httpx.request(method, lone_gateway + path)
    assert response.status_code == 405
    assert response.headers["allow"] == allow
    if method != "HEAD":
        check_envelope(response, 405, "HTTP_ERROR")


def test_head_is_get_without_a_body(lone_gateway: str) -> None:
    response = httpx.head(lone_gateway + "/livez")
    assert response.status_code == 200
    assert response.content == b""
    assert int(response.headers["content-length"]) == len('{"status":"alive"}')


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/json;charset=UTF-8",
        "application/vnd.carla+json",
        "application/problem+json; v=1",
    ],
)
def test_types_read_as_json(lone_gateway: str, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = httpx.post(lone_gateway + "/predict", content=b"{", headers=headers)
    check_envelope(response, 422, "VALIDATION_ERROR")


@pytest.mark.parametrize("path", ["/predict", "/warmup"])
@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "application/octet-stream",
        "json",
        "application/json, text/plain",
    ],
)
def test_other_types(lone_gateway: str, path: str, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    response = httpx.post(lone_gateway + path, content=GOOD, headers=headers)
    check_envelope(response, 415, "UNSUPPORTED_MEDIA_TYPE")


def test_an_encoded_body(lone_gateway: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    response = httpx.post(lone_gateway + "/predict", content=GOOD, headers=headers)
    check_envelope(response, 415, "UNSUPPORTED_MEDIA_TYPE")


def test_no_body_has_no_type(lone_gateway: str) -> None:
    response = httpx.post(lone_gateway + "/warmup", headers={"Content-Type": "text/plain"})
    check_envelope(response, 503, "SERVICE_UNAVAILABLE")


def test_the_limit_is_inclusive(lone_gateway: str) -> None:
    at_limit = httpx.post(lone_gateway + "/predict", content=b" " * 2000)
    check_envelope(at_limit, 422, "VALIDATION_ERROR")
    over = httpx.post(lone_gateway + "/predict", content=b" " * 2001)
    assert check_envelope(over, 413, "PAYLOAD_TOO_LARGE")["limit"] == 2000


def test_too_large_by_its_length_is_not_read(lone_gateway: str) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n"
    assert _raw(lone_gateway, head).startswith(b"HTTP/1.1 413 ")


def test_too_large_in_chunks_is_refused_before_its_end(lone_gateway: str) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"3e8\r\n" + b" " * 1000 + b"\r\n"
    assert _raw(lone_gateway, head + 3 * chunk).startswith(b"HTTP/1.1 413 ")


def test_a_whole_body_in_chunks(lone_gateway: str) -> None:
    response = httpx.post(lone_gateway + "/predict", content=iter([b"{", b'"x"', b":1}"]))
    assert check_envelope(response, 422, "VALIDATION_ERROR")["validation_errors"]
    response = httpx.post(lone_gateway + "/predict", content=iter([b" " * 1500] * 2))
    check_envelope(response, 413, "PAYLOAD_TOO_LARGE")


def _raw(url: str, request: bytes) -> bytes:
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(request)
        return connection.recv(65536)


def test_a_caller_that_leaves_does_no_harm(lone_gateway: str) -> None:
    parts = urlsplit(lone_gateway)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert httpx.get(lone_gateway + "/livez").status_code == 200
    errors = httpx.get(lone_gateway + "/metrics").text
    assert 'code="INTERNAL_ERROR"} 0.0' in errors


def test_cors_for_everyone(lone_gateway: str) -> None:
    page = {"Origin": "https://page.org"}
    for path, status in (("/livez", 200), ("/readyz", 503), ("/nope", 404)):
        response = httpx.get(lone_gateway + path, headers=page)
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in response.headers
        assert "X-Request-ID" in response.headers["access-control-expose-headers"]
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    response = httpx.options(lone_gateway + "/predict", headers=page | asked)
    assert response.status_code == 200
    assert "POST" in response.headers["access-control-allow-methods"]
    assert response.headers["access-control-allow-headers"] == "x-api-key"
    asked = {"Access-Control-Request-Method": "DELETE"}
    response = httpx.options(lone_gateway + "/predict", headers=page | asked)
    check_envelope(response, 400, "HTTP_ERROR")


@pytest.fixture(scope="module")
def keyed_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path: Path = tmp_path_factory.mktemp("keys") / "keys"
    digests = [hashlib.sha256(key).hexdigest() for key in (b"first", b"second")]
    path.write_text(f"# agents\n{digests[0]}\n\n{digests[1].upper()}  # the lab's\n")
    away = f"http://127.0.0.1:{held_port()}"
    with gateway_process(
        "/livez",
        TRITON_URL=away,
        API_KEYS_FILE=str(path),
        CORS_ORIGINS="https://page.org",
    ) as url:
        yield url


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "third"},
        {"X-API-Key": hashlib.sha256(b"first").hexdigest()},
        {"Authorization": "first"},
        {"Authorization": "Basic first"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer third"},
        {"X-API-Key": "é".encode()},
    ],
)
def test_a_wrong_key(keyed_gateway: str, headers: dict) -> None:
    for method, path in [("POST", "/predict"), ("GET", "/metadata"), ("GET", "/nope")]:
        response = httpx.request(method, keyed_gateway + path, headers=headers)
        check_envelope(response, 401, "UNAUTHORIZED")
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "first"},
        {"X-API-Key": "second"},
        {"Authorization": "Bearer first"},
        {"Authorization": "bearer second"},
    ],
)
def test_a_right_key(keyed_gateway: str, headers: dict) -> None:
    response = httpx.post(keyed_gateway + "/predict", content=GOOD, headers=headers)
    check_envelope(response, 503, "SERVICE_UNAVAILABLE")


def test_paths_that_need_no_key(keyed_gateway: str) -> None:
    for path in ("/healthz", "/livez", "/metrics", "/docs", "/redoc", "/openapi.json"):
        assert httpx.get(keyed_gateway + path).status_code == 200
    check_envelope(httpx.get(keyed_gateway + "/readyz"), 503, "SERVICE_UNAVAILABLE")
    document = httpx.get(keyed_gateway + "/openapi.json").json()
    assert document["paths"]["/predict"]["post"]["security"]
    assert "security" not in document["paths"]["/livez"]["get"]


def test_cors_for_one_origin(keyed_gateway: str) -> None:
    response = httpx.get(keyed_gateway + "/metadata", headers={"Origin": "https://page.org"})
    check_envelope(response, 401, "UNAUTHORIZED")
    assert response.headers["access-control-allow-origin"] == "https://page.org"
    response = httpx.get(keyed_gateway + "/livez", headers={"Origin": "https://other.org"})
    assert "access-control-allow-origin" not in response.headers
    asked = {"Origin": "https://other.org", "Access-Control-Request-Method": "POST"}
    check_envelope(httpx.options(keyed_gateway + "/predict", headers=asked), 400, "HTTP_ERROR")


def test_metrics(run_gateway: Callable[..., str]) -> None:
    url = run_gateway("/livez", TRITON_URL=f"http://127.0.0.1:{free_port()}")
    httpx.get(url + "/nope/1")
    httpx.get(url + "/nope/2")
    httpx.post(url + "/predict", content=b"{")
    text = httpx.get(url + "/metrics")
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = text.text.splitlines()
    for line in (
        'carla_rl_requests_total{method="GET",route="unmatched",status="404"} 2.0',
        'carla_rl_requests_total{method="POST",route="/predict",status="422"} 1.0',
        'carla_rl_errors_total{code="VALIDATION_ERROR"} 1.0',
        'carla_rl_errors_total{code="HTTP_ERROR"} 2.0',
        "carla_rl_observations_total 0.0",
        "carla_rl_ready 0.0",
        "carla_rl_inference_seconds_count 0.0",
    ):
        assert line in lines
    labels = 'le="0.00025",method="POST",route="/predict"'
    assert f"carla_rl_request_seconds_bucket{{{labels}}}" in text.text


def test_openapi_describes_every_route(lone_gateway: str) -> None:
    document = httpx.get(lone_gateway + "/openapi.json").json()
    assert set(document["paths"]) == {*ROUTES, "/metrics"}
    predict = document["paths"]["/predict"]["post"]
    expected = {"200", "401", "404", "409", "413", "415", "422", "429"}
    expected |= {"500", "502", "503", "504"}
    assert set(predict["responses"]) == expected
    for status, response in predict["responses"].items():
        content = response["content"]["application/json"]
        if status != "200":
            assert content["schema"]["$ref"].endswith("/ErrorEnvelope")
            assert content["example"]["error"] in response["description"]
    schemas = document["components"]["schemas"]
    assert set(schemas["Observation"]) == {"title", "description"}  # no version is active
    assert schemas["PredictRequest"]["properties"]["observations"]["maxItems"] == 1000
    assert schemas["PredictRequest"]["additionalProperties"] is False
    assert "security" not in predict
    _check_references(document, document)


def _check_references(document: dict, node: object) -> None:
    if isinstance(node, dict):
        if isinstance(reference := node.get("$ref"), str):
            assert reference.rpartition("/")[2] in document["components"]["schemas"], reference
        for value in node.values():
            _check_references(document, value)
    elif isinstance(node, list):
        for value in node:
            _check_references(document, value)


def exchange(url: str, sent: bytes) -> httpx.Response:
    """Send bytes as they are and read until the gateway closes the connection."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(sent)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = [tuple(line.split(": ", 1)) for line in lines]
    return httpx.Response(int(first.split()[1]), headers=headers, content=body)


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: two\r\n\r\n{}",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"nonsense\r\n\r\n",
    ],
)
def test_what_is_no_http(run_gateway: Callable[..., str], sent: bytes) -> None:
    url = run_gateway("/livez", TRITON_URL=f"http://127.0.0.1:{free_port()}")
    response = exchange(url, sent)
    check_envelope(response, 400, "HTTP_ERROR")
    assert response.headers["connection"] == "close"
    assert 'carla_rl_errors_total{code="HTTP_ERROR"} 1.0' in httpx.get(url + "/metrics").text


@pytest.mark.parametrize("path", ["/predict", "/warmup"])
def test_a_body_that_does_not_arrive(run_gateway: Callable[..., str], path: str) -> None:
    away = f"http://127.0.0.1:{held_port()}"
    url = run_gateway("/livez", TRITON_URL=away, REQUEST_TIMEOUT_MS="300")
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    start = time.monotonic()
    response = exchange(url, head.encode() + b'{"obs')
    assert 0.2 < time.monotonic() - start < 2
    check_envelope(response, 504, "DEADLINE_EXCEEDED")
    assert "the body did not arrive" in response.text
    assert response.headers["connection"] == "close"


def test_headers_that_protect(lone_gateway: str) -> None:
    """None of them twice, also on errors and on what is no HTTP."""
    nonsense = exchange(lone_gateway, b"nonsense\r\n\r\n")
    for response in (
        nonsense,
        httpx.get(lone_gateway + "/livez"),
        httpx.get(lone_gateway + "/nope"),
        httpx.get(lone_gateway + "/docs"),
        httpx.post(lone_gateway + "/predict", content=GOOD),
    ):
        assert response.headers.get_list("x-content-type-options") == ["nosniff"]
        assert "strict-transport-security" not in response.headers  # this is no TLS
        assert "server" not in response.headers
    for path in ("/docs", "/redoc"):
        policy = httpx.get(lone_gateway + path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
    assert httpx.get(lone_gateway + "/docs/oauth2-redirect").status_code == 404


@pytest.mark.parametrize("path", ["/predict", "/metadata", "/versions", "/readyz", "/nope"])
def test_errors_name_no_path_and_no_trace(lone_gateway: str, path: str) -> None:
    for method in ("GET", "POST"):
        text = httpx.request(method, lone_gateway + path, content=GOOD).text
        for part in ("Traceback", ".py", str(Path.home()), "/tmp", "/usr", "site-packages"):
            assert part not in text
