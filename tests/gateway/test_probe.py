"""The health check of the images: over HTTP and TLS, and what it says of a gateway that is not."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateway.certificates import make
from tests.gateway.processes import ROOT, free_port, gateway_process
from tests.stack import clean_environment


def probe(**variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.healthcheck"],
        cwd=ROOT,
        env=clean_environment() | variables,
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.live
def test_ready(triton_http: str, gateway_url: str) -> None:
    proxy = f"http://127.0.0.1:{free_port()}"
    done = probe(PORT=gateway_url.rpartition(":")[2], HOST="0.0.0.0", http_proxy=proxy)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.live
def test_ready_over_tls(triton_http: str, tmp_path: Path) -> None:
    """From the configuration file too; by address, which the certificate does not name."""
    files = make(tmp_path)
    port = free_port()
    configuration = tmp_path / "carlarl.yaml"
    configuration.write_text(
        f"profiles:\n  production:\n    port: {port}\n    triton_url: http://{triton_http}\n"
        f"    ssl_certfile: {files.certificate}\n    ssl_keyfile: {files.key}\n"
    )
    variables = {"CONFIG_FILE": str(configuration), "PROFILE": "production"}
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway"], cwd=ROOT, env=clean_environment() | variables
    )
    try:
        for _ in range(60):
            done = probe(**variables)
            if done.returncode == 0 or process.poll() is not None:
                break
        assert (done.returncode, done.stdout) == (0, "")
    finally:
        process.terminate()
        process.wait(20)
    assert probe(**variables).returncode == 1


def test_not_ready() -> None:
    with gateway_process("/livez", TRITON_URL=f"http://127.0.0.1:{free_port()}") as url:
        done = probe(PORT=url.rpartition(":")[2])
    assert done.returncode == 1
    assert done.stdout == "not ready: HTTP Error 503: Service Unavailable\n"
    assert "PORT=0: must be" in probe(PORT="0").stdout
