"""Versions are promoted and rolled back on a running server, and no request fails meanwhile."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from carlarl.promotion import promote
from carlarl.promotion.promote import PromotionError
from carlarl.promotion.triton_control import TritonControl
from carlarl.serving import cleanup, running
from converters.artifact import artifact
from converters.artifact.versions import triton_version
from converters.export import parity
from converters.repository import activation, configs, repository
from tests.gateway.streams import stream
from tests.stack import ROOT, Stack, free_ports, running_stack

pytestmark = pytest.mark.live

OBSERVATION = {"speed": 25.5, "steering": 0.1, "sensors": [0.8, 0.2, 0.5, 0.9, 0.1]}
CLIENTS = 6


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Path]]:
    """A stack on a repository of its own."""
    target = tmp_path_factory.mktemp("promotion") / "model_repository"
    shutil.copytree(ROOT / "model_repository", target)
    # With a long deadline, since a busy machine is no failure.
    with running_stack(MODEL_REPOSITORY=str(target), REQUEST_TIMEOUT_MS="60000") as stack:
        yield stack, target


@pytest.fixture
def control(live: tuple[Stack, Path]) -> Iterator[TritonControl]:
    with TritonControl(f"http://{live[0].triton_http}") as one:
        yield one


def action_of(version: str) -> list[float]:
    source = artifact.load(ROOT / "artifacts" / version)
    row = np.array([[25.5, 0.1, *OBSERVATION["sensors"]]], np.float32)  # type: ignore[misc]
    features = source.preprocessing.features(row)
    actions: list[float] = parity.actions(source, features, np.zeros((1, 3), np.float32))[
        0
    ].tolist()
    return actions


@dataclass
class Load:
    """Clients that ask all the time, and what came back."""

    stack: Stack
    expected: dict[str, list[float]]
    stop: threading.Event = field(default_factory=threading.Event)
    answers: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    mislabelled: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask_gateway(self) -> None:
        body = {"observations": [OBSERVATION], "deterministic": True}
        with httpx.Client(base_url=self.stack.gateway_url, timeout=90) as client:
            while not self.stop.is_set():
                try:
                    answer = client.post("/predict", json=body)
                except httpx.HTTPError as error:
                    self._count(self.failures, repr(error))
                    continue
                if answer.status_code != 200:
                    self._count(self.failures, answer.text)
                    continue
                version, (action,) = answer.json()["version"], answer.json()["actions"]
                got = [action["throttle"], action["brake"], action["steer"]]
                if got == pytest.approx(self.expected[version], abs=1e-5):
                    self._answered(version)
                else:
                    self._count(self.mislabelled, f"{version}: {got}")

    def ask_stream(self) -> None:
        """One vehicle, which steps as soon as it is answered."""
        step = 0
        with stream(self.stack.gateway_url) as vehicle:
            while not self.stop.is_set():
                step += 1
                answer = vehicle.ask(step, observation=OBSERVATION, deterministic=True)
                if answer["stepId"] != step or "action" not in answer:
                    self._count(self.failures, json.dumps(answer))
                    continue
                got = list(answer["action"].values())
                if got == pytest.approx(self.expected[answer["version"]], abs=1e-5):
                    self._answered(f"stream, {answer['version']}")
                else:
                    self._count(self.mislabelled, f"{answer['version']}: {got}")

    def ask_alias(self) -> None:
        """Triton itself, as a client that knows no version would."""
        with TritonControl(f"http://{self.stack.triton_http}") as control:
            while not self.stop.is_set():
                try:
                    got = control.act(configs.ALIAS, [OBSERVATION])[0].tolist()
                except Exception as error:  # noqa: BLE001 - counted, and the test fails for it
                    self._count(self.failures, repr(error))
                    continue
                if any(got == pytest.approx(one, abs=1e-5) for one in self.expected.values()):
                    self._answered("alias")
                else:
                    self._count(self.mislabelled, f"alias: {got}")

    def _answered(self, whom: str) -> None:
        with self.lock:
            self.answers[whom] = self.answers.get(whom, 0) + 1

    def _count(self, where: list[str], what: str) -> None:
        with self.lock:
            where.append(what)


def follows(stack: Stack, version: str) -> float:
    """Wait until the gateway answers with `version`; the seconds that it took."""
    began = time.monotonic()
    while httpx.get(f"{stack.gateway_url}/metadata").json()["version"] != version:
        assert time.monotonic() - began < 30, f"the gateway did not follow to {version}"
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.mark.parametrize("turns", [5, pytest.param(20, marks=pytest.mark.reliability)])
def test_promoted_and_rolled_back_under_load(
    turns: int,
    live: tuple[Stack, Path],
    control: TritonControl,
    record_testsuite_property: Callable[[str, Any], None],
) -> None:
    stack, target = live
    expected = {version: action_of(version) for version in ("v0.1.0", "v0.2.0")}
    assert np.abs(np.subtract(*expected.values())).max() > 0.1  # a wrong label would show
    load = Load(stack, expected)
    earlier = len(activation.history(target))
    switched, followed = [], []
    with ThreadPoolExecutor(CLIENTS + 4) as pool:
        clients = [pool.submit(load.ask_gateway) for _ in range(CLIENTS)]
        clients += [pool.submit(load.ask_alias) for _ in range(2)]
        clients += [pool.submit(load.ask_stream) for _ in range(2)]
        try:
            for _ in range(turns):
                done = promote.promote(target, "v0.1.0", control)
                assert (done.version, done.previous) == ("v0.1.0", "v0.2.0")
                switched.append(done.seconds)
                followed.append(follows(stack, "v0.1.0"))
                done = promote.promote(target, None, control)
                assert (done.version, done.previous) == ("v0.2.0", "v0.1.0")
                switched.append(done.seconds)
                followed.append(follows(stack, "v0.2.0"))
                assert httpx.get(f"{stack.gateway_url}/readyz").status_code == 200
        finally:
            load.stop.set()
        for client in clients:
            client.result()
    told = {
        "answers": load.answers,
        "failures": len(load.failures),
        "mislabelled": len(load.mislabelled),
        "switch_s": [round(min(switched), 2), round(max(switched), 2)],
        "follow_s": round(max(followed), 2),
    }
    record_testsuite_property("promotion", json.dumps(told))
    assert load.failures == []
    assert load.mislabelled == []
    whoms = [*expected, "alias", *(f"stream, {version}" for version in expected)]
    assert all(load.answers[whom] > 5 * turns for whom in whoms), told
    if turns == 20:  # else it runs beside other tests
        assert max(switched) < 5, told
        assert max(followed) < 2, told
    assert len(activation.history(target)) == earlier + 2 * turns
    assert repository.active_version(target) == "v0.2.0"


def test_commands(live: tuple[Stack, Path], carlarl: Callable[..., Any]) -> None:
    stack, target = live
    where = ("--repository", str(target), "--triton", f"http://{stack.triton_http}")
    result = carlarl("promote", "v0.1.0", *where)
    assert result.returncode == 0, result.stderr
    assert "active is v0.1.0 (was v0.2.0)" in result.stdout
    follows(stack, "v0.1.0")
    told = json.loads(carlarl("versions", "--repository", str(target), "--json").stdout)
    assert [one["version"] for one in told if one["active"]] == ["v0.1.0"]
    # The server is found by itself, on the embedded one's port, and never asked of a proxy.
    port = stack.triton_http.split(":")[1]
    here = {"TRITON_HTTP_PORT": port, "http_proxy": f"http://127.0.0.1:{free_ports(1)[0]}"}
    result = carlarl("rollback", "--repository", str(target), "--json", **here)
    assert json.loads(result.stdout)["version"] == "v0.2.0"
    assert json.loads(result.stdout)["triton"] == f"http://{stack.triton_http}"
    follows(stack, "v0.2.0")


def test_others_are_answered_while_a_model_is_loaded(
    live: tuple[Stack, Path], control: TritonControl
) -> None:
    """Asked to load over HTTP, one of Triton's HTTP threads would answer nobody until it has."""
    url = f"http://{live[0].triton_http}/v2/health/live"
    waits: list[float] = []
    stop = threading.Event()

    def ask(clients: list[httpx.Client]) -> None:
        while not stop.is_set():
            for client in clients:
                began = time.monotonic()
                assert client.get(url).status_code == 200
                waits.append(time.monotonic() - began)

    with ExitStack() as opened, ThreadPoolExecutor(1) as pool:
        # More connections than it has threads, each on one of them for good.
        clients = [opened.enter_context(httpx.Client(timeout=60)) for _ in range(16)]
        assert all(client.get(url).status_code == 200 for client in clients)
        asking = pool.submit(ask, clients)
        began = time.monotonic()
        try:
            control.load("carla_policy_torchscript-v0.1.0")  # a new process, which imports torch
            took = time.monotonic() - began
        finally:
            stop.set()
        asking.result()
    assert max(waits) < took / 2, f"{len(waits)} answers while it loaded, {took:.2f} s"


def test_the_port_that_models_are_loaded_by(
    live: tuple[Stack, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's embedded server is not found by itself: the setting names the port."""
    stack, target = live
    served = running.embedded_at(f"http://{stack.triton_http}")
    assert served is not None
    secret = served.secret
    monkeypatch.setattr(cleanup, "SHARED_MEMORY", tmp_path)
    (nobody,) = free_ports(1)
    url = f"http://{stack.triton_http}"
    before = contents(target)
    with (
        TritonControl(url, secret, nobody) as control,
        pytest.raises(PromotionError, match=rf"^load it .* no answer at 127\.0\.0\.1:{nobody}, .*"),
    ):
        promote.promote(target, "v0.1.0", control)
    assert contents(target) == before
    with TritonControl(url, secret, int(stack.triton_grpc.rpartition(":")[2])) as control:
        assert promote.promote(target, "v0.2.0", control).version == "v0.2.0"


def contents(root: Path) -> dict[str, bytes]:
    paths = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def assert_stays(
    live: tuple[Stack, Path], control: TritonControl, before: dict[str, bytes]
) -> None:
    """v0.2.0 is active as if nothing had been tried: on disk, in Triton and in the gateway."""
    stack, target = live
    assert contents(target) == before
    for model in ("carla_policy", "carla_policy-v0.2.0"):
        assert control.act(model, [OBSERVATION])[0] == pytest.approx(action_of("v0.2.0"), abs=1e-5)
    assert control.parameters("carla_policy")["version"] == "v0.2.0"
    follows(stack, "v0.2.0")  # it may have seen the alias moved, before it was put back
    body = {"observations": [OBSERVATION], "deterministic": True}
    assert httpx.post(f"{stack.gateway_url}/predict", json=body).json()["version"] == "v0.2.0"
    assert httpx.get(f"{stack.gateway_url}/readyz").status_code == 200


def add_version(target: Path, change: Callable[[Path], None] = lambda tree: None) -> None:
    """Put v0.3.0, a copy of v0.2.0 without a fused model, into the repository, changed."""
    with repository.transaction(target) as tree:
        repository.remove_version(tree, "v0.3.0")
        copy_version(tree, "v0.2.0", "v0.3.0")
        shutil.rmtree(tree / "carla_policy_fused-v0.3.0")
        change(tree)


def copy_version(tree: Path, old: str, new: str) -> None:
    """Put a copy of the version `old` into the repository."""
    for model in list(tree.glob(f"*-{old}")):
        copy = tree / model.name.replace(old, new)
        shutil.copytree(model, copy, ignore=shutil.ignore_patterns("__pycache__"))
        config = (model / "config.pbtxt").read_text().replace(old, new)
        numbers = [str(triton_version(version)) for version in (old, new)]
        config = config.replace(*(f"model_version: {number}" for number in numbers))
        repository.write(copy / "config.pbtxt", config.encode())
        if (copy / numbers[0]).is_dir():
            (copy / numbers[0]).rename(copy / numbers[1])


def tamper(tree: Path, model: str) -> None:
    config = repository.read_config(tree, model)
    golden = json.loads(config.parameters["golden"].string_value)
    golden["actions"][1][2] += 0.01
    config.parameters["golden"].string_value = json.dumps(golden)
    repository.write_ensemble(tree, model, configs.text(config))


@pytest.mark.parametrize(
    "broken",
    [
        "policy",
        "code",
        "Triton",
        "golden",
        "fused file",
        "fused answers",
        "unknown",
        "damaged config",
    ],
)
def test_a_failed_step_changes_nothing(
    live: tuple[Stack, Path], control: TritonControl, broken: str
) -> None:
    _, target = live

    def change(tree: Path) -> None:
        if broken == "policy":
            repository.write(tree / "policy_onnx-v0.3.0/3000/model.onnx", b"damaged")
        elif broken == "code":
            repository.write(
                tree / "policy_onnx-v0.3.0/3000/model.py", b"raise ImportError('no')\n"
            )
        elif broken == "Triton":  # its files open, but its config does not fit its steps
            config = repository.read_config(tree, "carla_policy-v0.3.0")
            config.input[5].dims[0] = 6
            repository.write_ensemble(tree, "carla_policy-v0.3.0", configs.text(config))
        elif broken == "golden":
            tamper(tree, "carla_policy-v0.3.0")
        elif broken.startswith("fused"):  # the model that gateways call is of another version
            fused = tree / "carla_policy_fused-v0.3.0"
            shutil.copytree(tree / "carla_policy_fused-v0.1.0", fused)
            config = (fused / "config.pbtxt").read_bytes().replace(b"v0.1.0", b"v0.3.0")
            repository.write(fused / "config.pbtxt", config)
            if broken == "fused file":
                repository.write(fused / "1/model.onnx", b"damaged")

    add_version(target, change)
    if broken == "damaged config":
        path = target / "carla_policy-v0.3.0" / "config.pbtxt"
        repository.write(path, path.read_bytes().replace(b'"golden"', b'"gilded"'))
    before = contents(target)
    version = "v0.9.0" if broken == "unknown" else "v0.3.0"
    step = {
        "policy": r"open its files: .*policy_onnx-v0\.3\.0/3000/model\.onnx: it can't be served",
        "code": r"open its files: .*policy_onnx-v0\.3\.0/3000/model\.py: .*not the line",
        "Triton": "load it beside the active version: .*inconsistent shape",
        "golden": "golden inference: .* differ by 0.01",
        "fused file": r"open its files: .*fused-v0\.3\.0/1/model\.onnx: it can't be served",
        "fused answers": "load the model that gateways call: .*fused.* not repeat its recorded",
        "unknown": r"find the version: .*: the repository does not hold v0\.9\.0; it holds",
        "damaged config": "find the version: .* recorded answers can't be read",
    }[broken]
    with pytest.raises(PromotionError, match=rf"^{step}.*; v0\.2\.0 stays active"):
        promote.promote(target, version, control)
    assert_stays(live, control, before)


def test_a_good_new_version_after_all_that(
    live: tuple[Stack, Path], control: TritonControl
) -> None:
    """A version that came after the server started is loaded beside the others."""
    stack, target = live
    add_version(target)
    assert promote.promote(target, "v0.3.0", control).version == "v0.3.0"
    follows(stack, "v0.3.0")
    assert promote.promote(target, None, control).version == "v0.2.0"
    follows(stack, "v0.2.0")


def test_an_alias_that_does_not_move_is_put_back(
    live: tuple[Stack, Path], control: TritonControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step fails, after the repository has changed: both go back."""
    _, target = live
    before = contents(target)
    original = TritonControl.parameters

    def parameters(self: TritonControl, model: str) -> dict[str, str]:
        told = original(self, model)
        return told | {"version": "v0.7.0"} if model == configs.ALIAS else told

    with monkeypatch.context() as patch:
        patch.setattr(TritonControl, "parameters", parameters)
        with pytest.raises(PromotionError, match=r"^check the alias: .* v0\.2\.0 stays active"):
            promote.promote(target, "v0.1.0", control)
    assert_stays(live, control, before)


def test_a_server_of_another_repository(
    live: tuple[Stack, Path], control: TritonControl, tmp_path: Path
) -> None:
    other = tmp_path / "model_repository"
    shutil.copytree(ROOT / "model_repository", other)
    add_version(other)
    before = contents(other)
    stack, target = live
    with repository.transaction(target) as tree:
        repository.remove_version(tree, "v0.3.0")
    with pytest.raises(PromotionError, match=r"serves another repository"):
        promote.promote(other, "v0.3.0", control)
    with pytest.raises(PromotionError, match=r"move the alias|check the alias"):
        promote.promote(other, "v0.1.0", control)
    assert contents(other) == before
    assert_stays(live, control, contents(target))


def test_offline(tmp_path: Path, command: Callable[..., Any]) -> None:
    target = tmp_path / "model_repository"
    shutil.copytree(ROOT / "model_repository", target)
    where = ("--repository", str(target))
    port = str(free_ports(1)[0])
    result = command("rollback", *where, "--offline")
    assert result.returncode == 1
    assert "find the version: " in result.stderr
    assert "no promotion that could be rolled back" in result.stderr
    result = command("promote", "v0.1.0", *where, "--offline")
    assert "active is v0.1.0 (was v0.2.0) in the repository" in result.stdout
    assert repository.active_version(target) == "v0.1.0"
    assert command("rollback", *where, "--offline").returncode == 0
    assert repository.active_version(target) == "v0.2.0"
    result = command("promote", "v0.1.0", *where, "--triton", f"http://127.0.0.1:{port}")
    assert result.returncode == 1
    assert "connect: no Triton answers at" in result.stderr
    assert command("promote", "v0.1.0", "--offline", "--triton", "http://x").returncode == 2
    assert command("promote", "latest").returncode == 2
    result = command("promote", "v0.1.0", *where, "--triton", "http://[::1")
    assert "TRITON_URL=http://[::1: must be a URL such as" in result.stderr
