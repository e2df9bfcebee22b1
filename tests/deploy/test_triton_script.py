"""`docker/triton.sh` with the real Triton: what it loads, and how Kubernetes sees that it hangs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from carlarl.serving import triton_server
from converters.repository import activation, repository
from tests.carlarl.test_promotion import copy_version
from tests.deploy.test_manifests import containers, of_kind
from tests.gateway.processes import status, until
from tests.stack import ROOT, clean_environment, free_ports
from triton_backend import healthcheck


@pytest.fixture
def target(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    target = tmp_path / "model_repository"
    shutil.copytree(ROOT / "model_repository", target, ignore=ignored)
    for version in ("v0.0.7", "v0.0.8", "v0.0.9"):
        copy_version(target, "v0.1.0", version)
    return target


@contextmanager
def script(target: Path, folder: Path, **variables: str) -> Iterator[tuple[str, Path]]:
    """Run it with the Triton of this environment: its URL, and its log."""
    wheel, libraries = triton_server._wheel()
    triton_server._assemble_python_backend(wheel, folder / "python")
    http, grpc, metrics = free_ports(3)
    environment = clean_environment() | triton_server._environment(libraries)
    environment["PATH"] = f"{wheel / 'bin'}{os.pathsep}{environment['PATH']}"
    environment |= {"MODEL_REPOSITORY": str(target), "PYTHONPATH": str(ROOT), **variables}
    command = ["sh", str(ROOT / "docker" / "triton.sh"), f"--backend-directory={folder}"]
    command += [f"--{name}-address=127.0.0.1" for name in ("http", "grpc", "metrics")]
    command += [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"]
    segments = f"test-{os.getpid()}-{http}_"
    command += [f"--backend-config=python,shm-region-prefix-name={segments}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{http}"
    try:
        ready = f"{url}/v2/health/ready"
        until(lambda: status(ready) == 200 or process.poll() is not None, 60)
        yield url, folder / "log"
    finally:
        process.terminate()
        process.wait(30)
        for left in Path("/dev/shm").glob(f"{segments}*"):  # by a process that was stopped
            left.unlink()


@pytest.mark.live
def test_it_loads_what_serve_loads(target: Path, tmp_path: Path) -> None:
    (target / "policy_onnx-v0.0.8" / "8" / "model.onnx").write_bytes(b"damaged")
    with repository.transaction(target, only="carla_policy") as folder:
        activation.request(target, folder, ["v0.0.8", "v0.0.9"])
    with script(target, tmp_path, SERVE_VERSIONS="v0.0.7") as (url, log):
        index = httpx.post(f"{url}/v2/repository/index").json()
        loaded = {one["name"] for one in index if one.get("state") == "READY"}
        versions = ("v0.0.7", "v0.0.9", "v0.1.0", "v0.2.0")
        kinds = ("carla_policy", "preprocess", "policy_onnx")
        assert loaded == {
            "carla_policy",
            "carla_policy_fused-v0.2.0",
            *(f"{kind}-{version}" for kind in kinds for version in versions),
        }
        assert "v0.0.8 is damaged and left out" in log.read_text()


def test_it_says_why_it_does_not_start(target: Path, tmp_path: Path) -> None:
    shutil.rmtree(target / "carla_policy")
    with script(target, tmp_path) as (_, log):
        assert "no active version; `carlarl export`" in log.read_text()


@pytest.mark.reliability
@pytest.mark.live
def test_kubernetes_restarts_one_that_hangs_and_none_that_is_slow(
    target: Path, tmp_path: Path
) -> None:
    """The liveness probes, run as they are but for Triton's port."""
    (runtime,) = of_kind("kserve", "ServingRuntime")
    (deployment,) = of_kind("overlays/cpu", "Deployment")
    one, other = (
        container["livenessProbe"]
        for container in (runtime["spec"]["containers"][0], containers(deployment)[0])
    )
    command = other["exec"]["command"]
    assert [*command, "8080"] == one["exec"]["command"]
    assert one["timeoutSeconds"] == other["timeoutSeconds"] > 2 * healthcheck.HUNG_S
    secret = tmp_path / "secret"
    secret.write_text("eight-or-more\n")
    tell = {"TRITON_SECRET": str(secret)}
    with script(target, tmp_path, **tell) as (url, _):
        port = url.rpartition(":")[2]

        def probe(**variables: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, *command[1:], port],
                env=clean_environment() | {"PYTHONPATH": str(ROOT)} | variables,
                capture_output=True,
                text=True,
                timeout=other["timeoutSeconds"],
            )

        done = probe(**tell)
        assert done.returncode == 0, done.stdout
        assert probe().returncode == 1, "the secret is missing"
        (stub,) = (
            process
            for process in psutil.process_iter()
            if process.name() == "triton_python_backend_stub"
            and f"{target}/preprocess-v0.1.0/" in " ".join(process.cmdline())
        )
        with ThreadPoolExecutor(1) as pool:
            stub.suspend()
            slow = pool.submit(probe, **tell)
            time.sleep(0.6)
            stub.resume()
            assert slow.result().returncode == 0, slow.result().stdout
        stub.suspend()
        done = probe(**tell)
        assert done.returncode == 1
        assert "preprocess-v0.1.0" in done.stdout
        assert httpx.get(f"{url}/v2/health/ready").status_code == 200, "what a plain probe sees"
    stub.kill()  # it is stopped, and so it does not see that Triton ended
    done = probe(**tell)
    assert done.returncode == 1, "nobody answers"
