"""What a promotion refuses: nobody answers, a pinned gateway, missing files, another signature."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from converters.repository import activation, configs, repository
from tests.carlarl.test_promotion import contents, follows
from tests.carlarl.test_supervision import triton
from tests.gateway.processes import until
from tests.stack import ROOT, free_ports, running_stack

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return shutil.copytree(ROOT / "model_repository", tmp_path / "model_repository")


def test_without_a_server_nothing_is_changed(target: Path, command: Command) -> None:
    nobody = {"TRITON_HTTP_PORT": str(free_ports(1)[0])}
    for arguments in (("promote", "v0.1.0"), ("rollback",)):
        result = command(*arguments, "--repository", str(target), **nobody)
        assert result.returncode == 1
        assert "connect: no Triton answers at" in result.stderr
        assert "--offline" in result.stderr
    assert repository.active_version(target) == "v0.2.0"


@pytest.mark.reliability
@pytest.mark.live
def test_the_service_is_found_and_waited_for(
    target: Path, tmp_path: Path, carlarl: Command
) -> None:
    """Its ports are in its environment alone, its repository in a configuration file."""
    file = tmp_path / "carlarl.yaml"
    file.write_text(f"profiles: {{development: {{model_repository: {target}}}}}\n")
    with running_stack(MODEL_REPOSITORY=str(target)) as stack:
        result = carlarl("promote", "v0.1.0", "--config", str(file))
        assert f"active is v0.1.0 (was v0.2.0) on http://{stack.triton_http}" in result.stdout
        follows(stack, "v0.1.0")
        old = triton(stack)
        old.kill()  # it is started again after a pause
        result = carlarl("promote", "v0.2.0", "--config", str(file))
        assert f"active is v0.2.0 (was v0.1.0) on http://{stack.triton_http}" in result.stdout
        until(lambda: triton(stack).pid != old.pid)
        follows(stack, "v0.2.0")
    result = carlarl("promote", "v0.1.0", "--config", str(file))
    assert "connect: no Triton answers at" in result.stderr, "the service has ended"


@pytest.mark.live
def test_a_gateway_that_is_pinned_does_not_follow(target: Path, carlarl: Command) -> None:
    with running_stack(MODEL_REPOSITORY=str(target), MODEL_VERSION="v0.1.0"):
        result = carlarl("promote", "v0.1.0", "--repository", str(target))
        assert result.returncode == 0, result.stderr
        result = carlarl("promote", "v0.2.0", "--repository", str(target))
    assert result.returncode == 1
    assert "MODEL_VERSION=v0.1.0" in result.stderr
    assert "v0.1.0 stays active" in result.stderr
    assert repository.active_version(target) == "v0.1.0"


@pytest.mark.parametrize("name", ["model.py", "model.onnx", "preprocessing.json", "config.pbtxt"])
def test_a_version_without_one_of_its_files(target: Path, command: Command, name: str) -> None:
    (gone,) = (
        path for path in target.rglob(name) if "v0.1.0" in str(path) and "fused" in str(path.parent)
    )
    gone.unlink()
    before = contents(target)
    result = command("promote", "v0.1.0", "--repository", str(target), "--offline")
    assert result.returncode == 1
    assert "open its files: " in result.stderr
    assert name in result.stderr
    assert contents(target) == before


@pytest.mark.live
def test_an_export_that_activates_hides_no_other_signature(target: Path, carlarl: Command) -> None:
    """What is served counts, not what the repository says since."""
    with running_stack(MODEL_REPOSITORY=str(target)):
        of_seven_sensors(target)
        with repository.transaction(target) as tree:
            activation.set_alias(tree, "v0.1.0")
        result = carlarl("promote", "v0.1.0", "--repository", str(target))
        assert result.returncode == 1
        assert "another signature than the active version (observation)" in result.stderr


def of_seven_sensors(target: Path) -> None:
    """Let the card of v0.1.0 in the repository say that it has as many."""
    config = repository.read_config(target, "carla_policy-v0.1.0")
    card = json.loads(config.parameters["model_card"].string_value) | {"sensors": 7}
    card["input_shape"] = [9]
    config.parameters["model_card"].string_value = json.dumps(card)
    repository.write_ensemble(target, config.name, configs.text(config))


def test_another_signature_needs_a_flag(target: Path, command: Command) -> None:
    of_seven_sensors(target)
    where = ("--repository", str(target), "--offline")
    result = command("promote", "v0.1.0", *where)
    assert result.returncode == 1
    assert "another signature" in result.stderr
    assert "(observation)" in result.stderr
    assert repository.active_version(target) == "v0.2.0"
    assert command("promote", "v0.1.0", *where, "--allow-signature-change").returncode == 0
    result = command("rollback", *where)
    assert result.returncode == 1
    assert "another signature" in result.stderr
    assert repository.active_version(target) == "v0.1.0"
    assert command("rollback", *where, "--allow-signature-change").returncode == 0
    assert repository.active_version(target) == "v0.2.0"
