"""Which versions are loaded: a damaged one is left out, the others are loaded, held and removed."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from carlarl.promotion import promote
from carlarl.promotion.triton_control import TritonControl
from carlarl.serving import retirement
from converters.repository import activation, configs, repository, start
from tests.carlarl.test_promotion import copy_version, follows
from tests.carlarl.test_supervision import triton
from tests.gateway.processes import OBSERVATION, check_envelope, status, until
from tests.stack import ROOT, Stack, running_stack

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return shutil.copytree(
        ROOT / "model_repository",
        tmp_path / "model_repository",
        ignore=shutil.ignore_patterns("__pycache__"),
    )


def ask(stack: Stack, version: str) -> httpx.Response:
    body = {"observations": [OBSERVATION], "version": version}
    return httpx.post(f"{stack.gateway_url}/predict", json=body, timeout=30)


def processes(stack: Stack) -> dict[int, str]:
    """Process → the model that it runs."""
    found = {}
    for one in triton(stack).children():
        if one.name() == "triton_python_backend_stub":
            found[one.pid] = Path(one.cmdline()[1]).parents[1].name
    return found


def states(command: Command, target: Path) -> dict[str, dict[str, Any]]:
    told = json.loads(command("versions", "--repository", str(target), "--json").stdout)
    return {one["version"]: one for one in told}


@pytest.mark.live
def test_damaged_versions_are_left_out(target: Path, command: Command) -> None:
    for version in ("v0.0.7", "v0.0.8", "v0.0.9"):
        copy_version(target, "v0.1.0", version)
    policy = target / "policy_onnx-v0.0.7" / "7" / "model.onnx"
    policy.write_bytes(policy.read_bytes()[:-100])
    shutil.rmtree(target / "preprocess-v0.0.8")
    (target / "carla_policy-v0.0.9" / "config.pbtxt").write_text("name: ")
    damaged = {"v0.0.7": str(policy), "v0.0.8": "preprocess-v0.0.8", "v0.0.9": "config.pbtxt"}
    asked = {"MODEL_REPOSITORY": str(target), "SERVE_VERSIONS": ",".join(damaged)}
    with running_stack(**asked) as stack:
        for version, path in damaged.items():
            (line,) = [one for one in stack.output().splitlines() if f"{version} is damaged" in one]
            assert path in line
        assert ask(stack, "v0.1.0").status_code == 200
        for version in damaged:
            check_envelope(ask(stack, version), 404, "MODEL_NOT_FOUND")
        told = httpx.get(f"{stack.gateway_url}/versions").json()
        assert [one["version"] for one in told["versions"]] == ["v0.1.0", "v0.2.0"]
        assert told["held"] == []
        assert sorted(told["damaged"]) == sorted(damaged)
        for version, path in damaged.items():
            assert path.removeprefix(f"{target}/") in told["damaged"][version]
            assert str(target) not in told["damaged"][version]
        found = states(command, target)
        assert {one for one in found if found[one]["damaged"]} == set(damaged)
        assert {one for one in found if found[one]["loaded"]} == {"v0.1.0", "v0.2.0"}
        for version, path in damaged.items():
            assert path in found[version]["damaged"]
        # One that is damaged while it is served is left out at Triton's next start.
        (target / "policy_onnx-v0.1.0" / "1000" / "model.onnx").write_bytes(b"damaged")
        triton(stack).kill()
        until(lambda: "v0.1.0 is damaged" in stack.output(), 30)
        until(lambda: status(stack.gateway_url + "/readyz") == 200, 60)
        until(lambda: ask(stack, "v0.1.0").status_code == 404)
        told = httpx.get(f"{stack.gateway_url}/versions").json()
        assert "model.onnx" in told["damaged"]["v0.1.0"]
        assert ask(stack, "v0.2.0").status_code == 200


@pytest.mark.parametrize(
    "model",
    ["carla_policy", "carla_policy_fused", "carla_policy_torchscript", "policy_onnx", "preprocess"],
)
def test_a_version_whose_configuration_is_cut_off_is_damaged(target: Path, model: str) -> None:
    """After any of its lines; Triton would not start with it."""
    path = target / f"{model}-v0.1.0" / "config.pbtxt"
    lines = path.read_text().splitlines(keepends=True)
    for end in range(len(lines)):
        path.write_text("".join(lines[:end]))
        assert model in start.plan(target, formats=["torchscript"]).damaged["v0.1.0"]


@pytest.mark.reliability
@pytest.mark.live
def test_held_loaded_unloaded_and_removed(target: Path, carlarl: Command) -> None:
    for version in ("v0.0.8", "v0.0.9"):
        copy_version(target, "v0.1.0", version)
    where = ("--repository", str(target))

    def run(*arguments: str) -> str:
        done = carlarl(*arguments, *where)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with running_stack(MODEL_REPOSITORY=str(target), SERVE_VERSIONS="v0.0.8") as stack:
        found = states(carlarl, target)
        assert [one for one in found if found[one]["loaded"]] == ["v0.0.8", "v0.1.0", "v0.2.0"]
        answer = ask(stack, "v0.0.9")
        check_envelope(answer, 404, "MODEL_NOT_FOUND")
        assert "v0.0.9 is held, and not loaded; `carlarl load v0.0.9`" in answer.json()["message"]
        assert "held" not in ask(stack, "v7.0.0").json()["message"]
        before = processes(stack)
        assert "v0.0.9 is loaded" in run("load", "v0.0.9")
        assert ask(stack, "v0.0.9").json()["version"] == "v0.0.9"
        new = {pid: model for pid, model in processes(stack).items() if pid not in before}
        assert set(new.values()) == {"preprocess-v0.0.9", "policy_onnx-v0.0.9"}
        assert before.items() <= processes(stack).items()
        result = carlarl("remove", "v0.0.9", *where)
        assert "`carlarl unload v0.0.9` first" in result.stderr
        triton(stack).kill()  # what was loaded is loaded again
        until(lambda: status(stack.gateway_url + "/readyz") == 503, 10)
        until(lambda: status(stack.gateway_url + "/readyz") == 200, 60)
        until(lambda: ask(stack, "v0.0.9").status_code == 200)
        before = processes(stack)
        run("unload", "v0.0.9")
        until(lambda: not new.items() & processes(stack).items())
        until(lambda: not [one for one in processes(stack).values() if one.endswith("v0.0.9")])
        assert processes(stack).items() <= before.items()
        until(lambda: ask(stack, "v0.0.9").status_code == 404)
        assert activation.requested(target) == set()
        assert "is removed" in run("remove", "v0.0.9")
        assert not list(target.glob("*v0.0.9"))
        assert ask(stack, "v0.0.9").json()["message"] == "there is no version v0.0.9"
        for arguments in (("unload", "v0.2.0"), ("remove", "v0.2.0")):
            result = carlarl(*arguments, *where)
            assert result.returncode == 1
            assert "v0.2.0 is the active version" in result.stderr
        assert ask(stack, "v0.2.0").status_code == 200


@pytest.mark.reliability
@pytest.mark.live
def test_a_card_that_can_t_be_read_hides_no_other(target: Path, command: Command) -> None:
    """Neither at the start, nor while it is served."""
    copy_version(target, "v0.1.0", "v0.0.9")
    config = repository.read_config(target, "carla_policy-v0.0.9")
    config.parameters["model_card"].string_value = "[" * 20_000
    repository.write_ensemble(target, config.name, configs.text(config))
    assert command("versions", "--repository", str(target)).returncode == 0
    config = repository.read_config(target, "carla_policy-v0.1.0")
    for version in ("v0.0.9", "v0.1.0"):
        with running_stack(MODEL_REPOSITORY=str(target), SERVE_VERSIONS=version) as stack:
            if version == "v0.1.0":
                config.parameters["model_card"].string_value = "{}"
                repository.write_ensemble(target, config.name, configs.text(config))
                with TritonControl(f"http://{stack.triton_http}") as control:
                    control.load(config.name)
                time.sleep(2)  # as long as a gateway may take to follow
            told = httpx.get(f"{stack.gateway_url}/versions")
            assert told.status_code == 200, told.text
            assert version not in [one["version"] for one in told.json()["versions"]]
            assert told.json()["active"] == "v0.2.0"


@pytest.mark.reliability
@pytest.mark.live
def test_a_version_that_is_replaced_gives_no_old_actions(target: Path, carlarl: Command) -> None:
    """Not even from the cache, where nobody has asked for it between its removal and its return."""
    where = ("--repository", str(target))

    def load(source: str) -> None:
        with repository.transaction(target) as tree:
            copy_version(tree, source, "v0.0.9")
        assert carlarl("load", "v0.0.9", *where).returncode == 0

    def action(stack: Stack, version: str) -> Any:
        body = {"observations": [OBSERVATION], "version": version, "deterministic": True}
        answer = httpx.post(f"{stack.gateway_url}/predict", json=body, timeout=30)
        return answer.json()["actions"]

    with running_stack(MODEL_REPOSITORY=str(target), CACHE_BYTES="1000000") as stack:
        load("v0.1.0")
        assert action(stack, "v0.0.9") == action(stack, "v0.1.0") != action(stack, "v0.2.0")
        for command in ("unload", "remove"):
            assert carlarl(command, "v0.0.9", *where).returncode == 0
        load("v0.2.0")
        time.sleep(2)  # as long as a gateway may take to follow
        assert action(stack, "v0.0.9") == action(stack, "v0.2.0")


def test_removed_with_its_artifact(target: Path, tmp_path: Path, command: Command) -> None:
    artifacts = shutil.copytree(ROOT / "artifacts", tmp_path / "artifacts")
    where = ("--repository", str(target), "--offline")
    assert command("promote", "v0.1.0", *where).returncode == 0
    assert command("remove", "v0.1.0", *where).returncode == 1
    result = command("remove", "v0.2.0", *where, "--artifact", ARTIFACT_DIR=str(artifacts))
    assert result.returncode == 0, result.stderr
    assert [one.version for one in repository.versions(target)] == ["v0.1.0"]
    assert [path.name for path in artifacts.iterdir()] == ["v0.1.0"]
    assert activation.history(target) == []
    assert command("remove", "v0.2.0", *where).returncode == 1


def test_removed_without_an_artifact(target: Path, tmp_path: Path, command: Command) -> None:
    where = ("--repository", str(target), "--offline")
    result = command("remove", "v0.1.0", *where, "--artifact", ARTIFACT_DIR=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr == (
        f"carlarl: {tmp_path}/v0.1.0: it can't be removed: No such file or directory\n"
    )
    assert f"{target}: v0.1.0 is removed" in result.stdout


@pytest.mark.live
def test_a_promotion_after_an_export_starts_no_other_process(
    target: Path, carlarl: Command
) -> None:
    with running_stack(MODEL_REPOSITORY=str(target)) as stack:
        url = f"http://{stack.triton_http}"
        before = processes(stack)
        assert not [one for one in before if not psutil.pid_exists(one)]
        with repository.transaction(target) as tree:
            copy_version(tree, "v0.1.0", "v0.3.0")
        with TritonControl(url) as control:
            promote.promote(target, "v0.3.0", control)
        follows(stack, "v0.3.0")
        new = {pid: model for pid, model in processes(stack).items() if pid not in before}
        assert sorted(new.values()) == [
            "carla_policy_fused-v0.3.0",
            "policy_onnx-v0.3.0",
            "preprocess-v0.3.0",
        ]
        assert before.items() <= processes(stack).items()


@pytest.mark.reliability
def test_versions_that_nobody_needs_are_unloaded(target: Path) -> None:
    """After many promotions in a row: but for one that is asked for by name all the time."""
    for number in range(1, 7):
        copy_version(target, "v0.1.0", f"v0.0.{number}")
    with (
        running_stack(MODEL_REPOSITORY=str(target), SERVE_VERSIONS="v0.0.6") as stack,
        TritonControl(f"http://{stack.triton_http}") as control,
    ):
        promote.promote(target, "v0.0.1", control)
        follows(stack, "v0.0.1")
        assert ask(stack, "v0.1.0").status_code == 200
        one = set(processes(stack).values())
        for number in range(2, 6):
            promote.promote(target, f"v0.0.{number}", control)
            follows(stack, f"v0.0.{number}")
            assert ask(stack, "v0.0.1").status_code == 200
        many = processes(stack)
        assert len(many) == len(one) + 4 * 3
        used, failed = {"v0.0.1", "v0.0.4", "v0.0.5", "v0.0.6"}, []

        def unloaded() -> bool:
            failed.extend(v for v in used if ask(stack, v).status_code != 200)
            return {model.rpartition("-")[2] for model in processes(stack).values()} == used

        until(unloaded, retirement.IDLE_S + 30)
        assert not failed
        assert processes(stack).items() <= many.items()
        assert len(processes(stack)) == len(one) + 1  # that v0.0.1 has its fused model, too
        until(lambda: ask(stack, "v0.0.2").status_code == 404)
        promote.promote(target, None, control)
        follows(stack, "v0.0.4")
        assert ask(stack, "v0.0.1").status_code == 200


def of_an_earlier_release(tmp_path: Path) -> Path:
    """A repository whose versions share their steps."""
    target = tmp_path / "model_repository"
    shutil.copytree(ROOT / "model_repository", target)
    for model in ("preprocess", "policy_onnx"):
        for version, number in (("v0.1.0", "1000"), ("v0.2.0", "2000")):
            (target / f"{model}-{version}" / number).rename(
                (target / model).mkdir(exist_ok=True) or target / model / number
            )
            config = (target / f"{model}-{version}" / "config.pbtxt").read_text()
            shutil.rmtree(target / f"{model}-{version}")
            name = f'"{model}-{version}"'
            (target / model / "config.pbtxt").write_text(config.replace(name, f'"{model}"'))
            for ensemble in target.glob("carla_policy*/config.pbtxt"):
                text = ensemble.read_text().replace(name, f'"{model}"')
                repository.write(ensemble, text.encode())
    return target


@pytest.mark.reliability
@pytest.mark.live
def test_a_repository_of_an_earlier_release(tmp_path: Path, carlarl: Command) -> None:
    target = of_an_earlier_release(tmp_path)
    with running_stack(MODEL_REPOSITORY=str(target)) as stack:
        assert sorted(processes(stack).values()) == [
            "carla_policy_fused-v0.2.0",
            *("policy_onnx", "policy_onnx", "preprocess", "preprocess"),
        ]
        for version in ("v0.1.0", "v0.2.0"):
            assert ask(stack, version).json()["version"] == version
        where = ("--repository", str(target))
        done = carlarl("export", "--version", "v0.1.0", "--formats", "onnx", *where)
        assert done.returncode == 0, done.stderr
        done = carlarl("promote", "v0.1.0", *where)
        assert done.returncode == 0, done.stderr
        follows(stack, "v0.1.0")
        assert (target / "preprocess-v0.1.0").exists()
        assert not (target / "preprocess" / "1000").exists()
        assert (target / "preprocess" / "2000").exists()
        assert ask(stack, "v0.2.0").status_code == 200


@pytest.mark.reliability
@pytest.mark.live
def test_a_damaged_version_in_a_repository_of_an_earlier_release(tmp_path: Path) -> None:
    """Triton would load its files with those of the others, although nobody asks for it."""
    target = of_an_earlier_release(tmp_path)
    for version in ("v0.0.7", "v0.0.8"):
        ensemble = shutil.copytree(
            target / "carla_policy-v0.1.0", target / f"carla_policy-{version}"
        )
        text = (ensemble / "config.pbtxt").read_text().replace("v0.1.0", version)
        (ensemble / "config.pbtxt").write_text(text.replace("1000\n", f"{version[-1]}\n"))
        for model in ("preprocess", "policy_onnx"):
            shutil.copytree(target / model / "1000", target / model / version[-1])
    (target / "policy_onnx" / "7" / "model.onnx").write_bytes(b"damaged")
    (target / "preprocess" / "8" / "model.py").unlink()
    with running_stack(MODEL_REPOSITORY=str(target)) as stack:
        told = httpx.get(f"{stack.gateway_url}/versions").json()
        assert [one["version"] for one in told["versions"]] == ["v0.1.0", "v0.2.0"]
        assert "policy_onnx/7/model.onnx" in told["damaged"]["v0.0.7"]
        assert "model.py" in told["damaged"]["v0.0.8"]
        assert "v0.0.7 is damaged" in stack.output()
        assert len(processes(stack)) == 5
        for version in ("v0.1.0", "v0.2.0"):
            assert ask(stack, version).json()["version"] == version
