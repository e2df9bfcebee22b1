"""`compose.yaml` run for real, as conftest.py brings it up: rights, doors, promotions, restarts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.carlarl.test_promotion import add_version
from tests.deploy.containers import Containers
from tests.deploy.deployed import READY_S, SECRET, SERVICES, Deployed
from tests.gateway.certificates import make
from tests.gateway.processes import until
from tests.stack import ROOT, free_ports

pytestmark = pytest.mark.deploy


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
        "from carlarl.promotion.triton_control import TritonControl as T; "
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
        "import sys, pathlib, converters.repository.repository as r; "
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
