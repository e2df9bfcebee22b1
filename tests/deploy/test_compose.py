"""`compose.yaml` brought up for real: images built, services restarted, all taken down.

Images that can be had take the place of what is made here: DEPLOY_BASE that of debootstrap's base,
DEPLOY_TRITON_BASE that of the stand-in for the official server, DEPLOY_PROMETHEUS that of Debian's.
BUILD_FLAGS is what `buildah bud` needs on this machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.carlarl.test_promotion import add_version
from tests.deploy.containers import PACKAGES, Containers, missing
from tests.gateway.certificates import make
from tests.gateway.processes import until
from tests.stack import ROOT, free_ports

pytestmark = pytest.mark.deploy

KEY = "a key that only this test has"
SECRET = "what-only-this-test-knows"
OBSERVATION = {"speed": 25.5, "steering": 0.1, "sensors": [0.8, 0.2, 0.5, 0.9, 0.1]}
SERVICES = ("triton", "gateway", "prometheus")
READY_S = 300.0


@dataclass(frozen=True)
class Deployed:
    """What compose.yaml started: how to run its commands, and where the gateway is published."""

    containers: Containers
    variables: dict[str, str]
    url: str

    def compose(self, *arguments: str, profiles: str = "cpu monitoring") -> str:
        return self.containers.compose(*arguments, profiles=profiles, **self.variables)

    def inside(self, service: str, *command: str) -> str:
        return self.containers.run("podman", "exec", self.name(service), *command)

    def name(self, service: str) -> str:
        return f"carlarl-test_{service}_1"

    def predict(self, key: str = KEY) -> httpx.Response:
        body = {"observations": [OBSERVATION], "deterministic": True}
        return httpx.post(f"{self.url}/predict", json=body, headers={"X-API-Key": key}, timeout=10)

    def acts(self, version: str | None = None) -> bool:
        try:
            answer = self.predict()
        except httpx.TransportError:
            return False
        return answer.status_code == 200 and version in (None, answer.json()["version"])

    def scraped(self) -> dict[str, str]:
        """Job → 1 where Prometheus' last scrape of it worked; empty where it does not answer."""
        query = ("promtool", "query", "instant", "-o", "json", "http://127.0.0.1:9090", "up")
        try:
            rows = json.loads(self.inside("prometheus", *query))
        except AssertionError:  # it is starting
            return {}
        return {row["metric"]["job"]: row["value"][1] for row in rows}


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


def test_an_action_through_the_published_port(deployed: Deployed) -> None:
    answer = deployed.predict()
    assert answer.status_code == 200, answer.text
    assert set(answer.json()["actions"][0]) == {"throttle", "brake", "steer"}
    assert deployed.predict("another key").status_code == 401


def test_prometheus_scrapes_both(deployed: Deployed) -> None:
    until(lambda: deployed.scraped() == {"gateway": "1", "triton": "1"}, READY_S)


def test_only_the_gateway_is_published(deployed: Deployed) -> None:
    for service in SERVICES:
        (told,) = json.loads(deployed.containers.run("podman", "inspect", deployed.name(service)))
        bindings: dict[str, Any] = told["HostConfig"]["PortBindings"]
        published = {port: places for port, places in bindings.items() if places}
        if service == "gateway":
            assert published == {
                "8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": deployed.variables["PORT"]}]
            }
        else:
            assert not published


@pytest.mark.parametrize("service", SERVICES)
def test_rights_that_a_service_has(deployed: Deployed, service: str) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in deployed.inside(service, "cat", "/proc/1/status").splitlines()
        if ":\t" in line
    )
    assert int(status["Uid"].split()[0]) != 0
    assert {status[f"Cap{kind}"] for kind in ("Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    with pytest.raises(AssertionError, match="Read-only file system"):
        deployed.inside(service, "touch", "/written")


@pytest.mark.parametrize("service", SERVICES)
def test_the_health_check_holds(deployed: Deployed, service: str) -> None:
    deployed.containers.run("podman", "healthcheck", "run", deployed.name(service))


def test_what_the_gateway_s_image_lacks(deployed: Deployed) -> None:
    found = (
        "import importlib.util, shutil; print([n for n in ('torch', 'numpy', 'onnxruntime', "
        "'pytriton', 'pip', 'carlarl', 'converters') if importlib.util.find_spec(n)] + "
        "[n for n in ('gcc', 'cc', 'make', 'pip') if shutil.which(n)])"
    )
    assert deployed.inside("gateway", "python", "-c", found).strip() == "[]"


def test_triton_is_out_of_reach_from_outside(deployed: Deployed) -> None:
    """Its network is internal: nothing in it reaches the world."""
    (told,) = json.loads(
        deployed.containers.run("podman", "network", "inspect", "carlarl-test_inside")
    )
    assert told["internal"] is True


ASK = (
    "import sys, urllib.request as r; q = r.Request('http://triton:8000' + sys.argv[1], b'', "
    "{'carlarl-secret': sys.argv[2]}); print(r.urlopen(q).status)"
)


@pytest.mark.parametrize(
    "path", ["/v2/repository/index", "/v2/repository/models/carla_policy/unload", "/v2/logging"]
)
def test_triton_is_closed_over_http(deployed: Deployed, path: str) -> None:
    """Also to what stands in its own network."""
    for stranger in ("", "a-wrong-one"):
        with pytest.raises(AssertionError, match="HTTP Error 403"):
            deployed.inside("gateway", "python", "-c", ASK, path, stranger)
    if path.endswith("index"):
        assert deployed.inside("gateway", "python", "-c", ASK, path, SECRET) == "200\n"


def test_triton_is_closed_over_grpc(deployed: Deployed) -> None:
    load = (
        "from carlarl.triton_control import TritonControl as T; "
        "T('http://triton:8000', 'a-wrong-one').load('carla_policy')"
    )
    program = ("run", "--rm", "-T", "--entrypoint", "python", "tools", "-c")
    with pytest.raises(AssertionError, match="ControlError: this Triton is closed"):
        deployed.compose(*program, load, profiles="tools")
    deployed.compose(*program, load.replace("a-wrong-one", SECRET), profiles="tools")


def test_the_secret_is_in_no_environment_and_no_log(deployed: Deployed) -> None:
    for service in SERVICES:
        told = deployed.containers.run("podman", "inspect", deployed.name(service))
        assert SECRET not in told
        log = deployed.containers.logs(deployed.name(service))
        assert log
        assert SECRET not in log


def test_promote_and_roll_back(deployed: Deployed) -> None:
    command = ("run", "--rm", "-T", "tools")
    said = deployed.compose(*command, "promote", "v0.1.0", profiles="tools")
    assert "active is v0.1.0 (was v0.2.0) on http://triton:8000" in said
    until(lambda: deployed.acts("v0.1.0"), READY_S)
    deployed.compose("restart", "triton")  # the volume remembers
    until(lambda: deployed.acts("v0.1.0"), READY_S)
    assert "active is v0.2.0" in deployed.compose(*command, "rollback", profiles="tools")
    until(lambda: deployed.acts("v0.2.0"), READY_S)


def test_keys_are_rotated(deployed: Deployed, secrets: Path) -> None:
    """By the commands that docs/OPERATIONS.md has, while it serves."""
    text = (ROOT / "docs" / "OPERATIONS.md").read_text()
    add, remove = (
        re.search(rf"^ *({start}=.*secrets/api_keys)$", text, re.MULTILINE)
        for start in ("key", "rest")
    )
    assert add is not None
    assert remove is not None

    def run(command: str, **variables: str) -> str:
        return subprocess.run(
            ["sh", "-c", command],
            cwd=secrets.parent,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    new = run(f'{add[1]}; echo "$key"')
    until(lambda: deployed.predict(new).status_code == 200, READY_S)
    assert deployed.predict().status_code == 200
    run(remove[1], old=new)
    until(lambda: deployed.predict(new).status_code == 401, READY_S)
    assert deployed.predict().status_code == 200


def test_a_new_version_is_copied_in(deployed: Deployed, tmp_path: Path) -> None:
    """By the command that docs/OPERATIONS.md has, and promoted."""
    new = tmp_path / "model_repository"
    shutil.copytree(ROOT / "model_repository", new)
    add_version(new)
    text = (ROOT / "docs" / "OPERATIONS.md").read_text()
    script = re.search(r"--entrypoint sh tools \\\n  -c '([^']+)'", text)
    assert script is not None
    command = ("run", "--rm", "-T", "-v", f"{new}:/new:ro", "--entrypoint", "sh", "tools", "-c")
    deployed.compose(*command, script[1], profiles="tools")
    assert deployed.acts("v0.2.0")
    deployed.compose("run", "--rm", "-T", "tools", "promote", "v0.3.0", profiles="tools")
    until(lambda: deployed.acts("v0.3.0"), READY_S)
    deployed.compose("run", "--rm", "-T", "tools", "rollback", profiles="tools")
    until(lambda: deployed.acts("v0.2.0"), READY_S)


def test_the_health_check_over_tls(
    deployed: Deployed, images: dict[str, str], tmp_path: Path
) -> None:
    files = make(tmp_path)
    tmp_path.chmod(0o755)
    for path in (files.certificate, files.key):
        path.chmod(0o644)
    name = "carlarl-test-tls"
    variables = {
        "TRITON_URL": "http://triton:8000",
        "SSL_CERTFILE": f"/tls/{files.certificate.name}",
        "SSL_KEYFILE": f"/tls/{files.key.name}",
    }
    deployed.containers.run(
        *("podman", "run", "--detach", "--name", name, "--network", "carlarl-test_inside"),
        *("--volume", f"{tmp_path}:/tls:ro"),
        *(part for pair in variables.items() for part in ("--env", "=".join(pair))),
        images["GATEWAY_IMAGE"],
    )

    def healthy() -> bool:
        try:
            deployed.containers.run("podman", "healthcheck", "run", name)
        except AssertionError:  # it is starting
            return False
        return True

    try:
        until(healthy, READY_S)
        assert "listening on https://" in deployed.containers.logs(name)
    finally:
        deployed.containers.run("podman", "rm", "--force", name)


@pytest.mark.parametrize("service", SERVICES)
def test_restart(deployed: Deployed, service: str) -> None:
    began = _started(deployed, service)
    deployed.compose("restart", service)
    assert _started(deployed, service) != began
    until(deployed.acts, READY_S)
    until(lambda: deployed.scraped() == {"gateway": "1", "triton": "1"}, READY_S)


def _started(deployed: Deployed, service: str) -> str:
    form = "{{.State.StartedAt}}"
    return deployed.containers.run("podman", "inspect", "--format", form, deployed.name(service))


def test_a_mount_of_the_same_file_system(tmp_path: Path) -> None:
    """As a volume in a container may be, beside which nothing can be written."""
    place, held = tmp_path / "the place", tmp_path / "held"
    place.mkdir()
    held.mkdir()
    program = (
        "import sys, pathlib, converters.repository as r; "
        "print([r._is_mount(pathlib.Path(path)) for path in sys.argv[1:]])"
    )
    shell = 'mount --bind "$1" "$2" && exec "$3" -c "$4" "$2" "$1"'
    arguments = (str(held), str(place), sys.executable, program)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", shell, "sh", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[True, False]", done.stderr


def test_all_in_one(containers: Containers, images: dict[str, str], tmp_path: Path) -> None:
    (port,) = free_ports(1)
    name = "carlarl-test-all-in-one"
    containers.run(
        *("podman", "run", "--detach", "--name", name, "--publish", f"127.0.0.1:{port}:8080"),
        *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--shm-size", "256m"),
        images["CARLARL_IMAGE"],
    )
    try:
        one = Deployed(containers, {}, f"http://127.0.0.1:{port}")
        until(one.acts, READY_S)
        containers.run("podman", "healthcheck", "run", name)
        containers.run("podman", "stop", "--time", "30", name)
        ended = ("podman", "inspect", "--format", "{{.State.ExitCode}}", name)
        assert containers.run(*ended).strip() == "0"
    finally:
        containers.run("podman", "rm", "--force", name)
