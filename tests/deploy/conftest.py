"""`compose.yaml` brought up from images that were built here, and taken down.

Images that can be had take the place of what is made here: DEPLOY_BASE that of debootstrap's base,
DEPLOY_TRITON_BASE that of the stand-in for the official server, DEPLOY_PROMETHEUS that of Debian's.
BUILD_FLAGS is what `buildah bud` needs on this machine.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.deploy.containers import PACKAGES, Containers, missing
from tests.deploy.deployed import KEY, READY_S, SECRET, SERVICES, Deployed
from tests.gateway.processes import until
from tests.stack import free_ports


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    if sentence := missing(PACKAGES):
        pytest.fail(sentence, pytrace=False)
    if os.geteuid() != 0:
        pytest.fail(
            "run it as root: debootstrap and the containers' networks need it", pytrace=False
        )
    made = Containers.create(tmp_path_factory.mktemp("containers"))
    yield made
    made.run("podman", "system", "reset", "--force")


@pytest.fixture(scope="module")
def images(containers: Containers) -> dict[str, str]:
    """The variables of compose.yaml that name images, for those that were built here."""
    base = os.environ.get("DEPLOY_BASE") or containers.debian()
    gateway = containers.build("docker/gateway.Dockerfile", "carlarl-gateway", base)
    whole = containers.build("docker/all-in-one.Dockerfile", "carlarl", base)
    official = os.environ.get("DEPLOY_TRITON_BASE") or containers.build(
        "tests/deploy/stand_in.Dockerfile", "stand-in", whole, "tests/deploy"
    )
    triton = containers.build("docker/triton.Dockerfile", "carlarl-triton", official)
    prometheus = os.environ.get("DEPLOY_PROMETHEUS") or containers.build(
        "tests/deploy/prometheus.Dockerfile", "prometheus", base, "tests/deploy"
    )
    return {
        "GATEWAY_IMAGE": gateway,
        "CARLARL_IMAGE": whole,
        "TRITON_IMAGE": triton,
        "PROMETHEUS_IMAGE": prometheus,
    }


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `secrets` that compose.yaml takes its files from."""
    secrets = tmp_path_factory.mktemp("deployed") / "secrets"
    secrets.mkdir(0o700)
    (secrets / "api_keys").write_text(hashlib.sha256(KEY.encode()).hexdigest() + "\n")
    (secrets / "triton_secret").write_text(SECRET + "\n")
    (secrets / "state_secret").write_text(SECRET + "\n")
    (secrets / "grafana_password").write_text("unused")
    for path in secrets.iterdir():
        path.chmod(0o644)
    return secrets


@pytest.fixture(scope="module")
def deployed(containers: Containers, images: dict[str, str], secrets: Path) -> Iterator[Deployed]:
    (port,) = free_ports(1)
    variables = images | {
        "PORT": str(port),
        "API_KEYS_FILE": str(secrets / "api_keys"),
        "TRITON_SECRET_FILE": str(secrets / "triton_secret"),
        "STATE_SECRET_FILE": str(secrets / "state_secret"),
        "GRAFANA_PASSWORD_FILE": str(secrets / "grafana_password"),
    }
    made = Deployed(containers, variables, f"http://127.0.0.1:{port}")
    try:
        made.compose("up", "-d", *SERVICES)  # Grafana's image can't be made here
        until(made.acts, READY_S)
        yield made
    finally:
        made.compose("down", "-v")
    assert containers.run("podman", "ps", "--all", "--quiet") == ""
    with pytest.raises(httpx.TransportError):
        made.predict()
