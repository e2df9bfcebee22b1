"""The gateway over TLS: both ways of answering, and which certificates it refuses to start with."""

import os
import shlex
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import serialization

from tests.gateway.certificates import Certificates, make
from tests.gateway.processes import OBSERVATION, ROOT, check_envelope, free_port
from tests.stack import Stack, running_stack

LIMITS = {"MAX_BODY_BYTES": "9000", "REQUEST_TIMEOUT_MS": "20000"}
BODY = {"observations": [OBSERVATION], "deterministic": True}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def served(certificates: Certificates, stack: Stack) -> Iterator[Stack]:
    """`carlarl serve` with a certificate, on the session's Triton."""
    flags = ["--ssl-certfile", certificates.certificate, "--ssl-keyfile", certificates.key]
    triton = f"http://{stack.triton_http}"
    with running_stack(*map(str, flags), TRITON_URL=triton, **LIMITS) as one:
        yield one


@pytest.fixture
def client(certificates: Certificates, served: Stack) -> Iterator[httpx.Client]:
    context = ssl.create_default_context(cafile=str(certificates.authority))
    url = served.gateway_url.replace("http:", "https:")
    with httpx.Client(base_url=url, verify=context, timeout=30) as one:
        yield one


def test_requests_on_one_connection(client: httpx.Client) -> None:
    usual = client.post("/predict", json=BODY)
    assert usual.status_code == 200
    large = client.post("/predict", json={**BODY, "observations": [OBSERVATION] * 90})
    assert len(large.json()["actions"]) == 90
    check_envelope(client.post("/predict", content=b"x" * 9001), 413, "PAYLOAD_TOO_LARGE")
    for answer in (usual, client.get("/livez"), client.get("/nope")):
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert client.get("/versions").json()["active"] == "v0.2.0"  # by the other serve's secret


def test_what_serve_says(served: Stack) -> None:
    url = served.gateway_url.replace("http:", "https:")
    assert f"gateway       {url}  (API docs at {url}/docs" in served.output()
    line = next(line for line in served.output().splitlines() if "curl" in line)
    done = subprocess.run(shlex.split(line), capture_output=True, text=True, check=True)
    assert '"actions"' in done.stdout


def test_a_command_that_trusts_the_authority(
    carlarl: Callable[..., "subprocess.CompletedProcess[str]"],
    served: Stack,
    certificates: Certificates,
) -> None:
    url = served.gateway_url.replace("http:", "https:")
    trusting = carlarl("warmup", "--url", url, SSL_CERT_FILE=str(certificates.authority))
    assert trusting.returncode == 0, trusting.stderr
    own = {
        "PORT": url.rpartition(":")[2],
        "SSL_CERTFILE": str(certificates.certificate),
        "SSL_KEYFILE": str(certificates.key),
        "SSL_CERT_FILE": str(certificates.authority),
        "https_proxy": "http://127.0.0.1:9",
    }
    by_settings = carlarl("warmup", **own)
    assert by_settings.returncode == 0, by_settings.stderr
    other = carlarl("warmup", "--url", url)
    assert other.returncode == 1
    assert "certificate verify failed" in other.stderr


def test_a_client_that_does_not_trust_it_and_one_without_tls(served: Stack) -> None:
    url = served.gateway_url.replace("http:", "https:")
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(url + "/livez")
    with pytest.raises(httpx.TransportError):
        httpx.get(served.gateway_url + "/livez")


@pytest.mark.parametrize("broken", ["no file", "no certificate", "another's key", "encrypted key"])
def test_certificates_that_cannot_be_used(
    certificates: Certificates, tmp_path: Path, broken: str
) -> None:
    other = make(tmp_path)
    certificate, key = certificates.certificate, certificates.key
    if broken == "no file":
        certificate = tmp_path / "none"
    elif broken == "no certificate":
        certificate = key
    elif broken == "another's key":
        key = other.key
    else:
        plain = serialization.load_pem_private_key(key.read_bytes(), None)
        key = tmp_path / "encrypted"
        key.write_bytes(
            plain.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"password"),
            )
        )
    environment = {
        "PORT": str(free_port()),
        "SSL_CERTFILE": str(certificate),
        "SSL_KEYFILE": str(key),
    }
    done = subprocess.run(
        [sys.executable, "-m", "gateway"],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    start = f"SSL_CERTFILE={certificate}, SSL_KEYFILE={key}: must be a certificate chain and its"
    assert done.stderr.startswith(start)
    assert len(done.stderr.splitlines()) == 1
