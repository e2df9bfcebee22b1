"""No caller gets the answer of another call, whatever Triton and its models' processes do."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from carlarl.promotion.triton_control import ControlError, TritonControl
from converters.repository import configs
from tests.carlarl.test_supervision import model
from tests.gateway.processes import OBSERVATION, check_envelope, predict, status, until
from tests.gateway.streams import metric
from tests.gateway.vehicles import driving
from tests.stack import ROOT, Stack, running_stack

pytestmark = pytest.mark.live

FUSED, ENSEMBLE = "carla_policy_fused-v0.2.0", "carla_policy-v0.2.0"
DISTRUSTED = "carla_rl_distrusted_answers_total"
LATE = """
from pathlib import Path

from triton_backend.{module} import {name}


class TritonPythonModel({name}):
    last = None

    def execute(self, requests):
        '''Answer with the reply to the request before, where there is a file `late`.'''
        answers = super().execute(requests)
        if not (Path(__file__).parent / "late").exists():
            return answers
        given, self.last = self.last or answers[0], answers[-1]
        return [given, *answers[:-1]]
"""
"""A model that gives every answer to the next call, as Triton's Python backend may."""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "model_repository", tmp_path / "repository"))


@contextmanager
def serving(repository: Path, **variables: str) -> Iterator[Stack]:
    with running_stack("--repository", str(repository), **variables) as stack:
        yield stack


def remove_fused(repository: Path) -> None:
    for folder in repository.glob("carla_policy_fused-*"):
        shutil.rmtree(folder)


def wait_in_use(stack: Stack, name: str) -> None:
    """Wait until the gateway calls the model for those who drive."""

    def count() -> int:
        stats = httpx.get(f"http://{stack.triton_http}/v2/models/{name}/stats").json()
        return int(stats["model_stats"][0]["inference_count"])

    def rises() -> bool:
        try:
            before = count()
            time.sleep(1)
            return count() > before + 10
        except httpx.TransportError:  # Triton is started again
            return False

    until(rises, 60)


@pytest.mark.parametrize(
    ("name", "part", "vehicles", "streams"),
    [
        (FUSED, FUSED, 1, False),
        pytest.param(ENSEMBLE, "policy_onnx-v0.2.0", 8, True, marks=pytest.mark.reliability),
    ],
)
def test_a_process_that_stops_and_goes_on(
    repository: Path, name: str, part: str, vehicles: int, streams: bool
) -> None:
    if name == ENSEMBLE:
        remove_fused(repository)
    with (
        serving(repository) as stack,
        driving(stack.gateway_url, vehicles, streams=streams) as drive,
    ):
        wait_in_use(stack, name)
        process = model(stack, f"/{part}/")
        process.suspend()
        time.sleep(1.2)
        process.resume()
        time.sleep(3)
        resumed = time.monotonic()
        until(lambda: drive.last_good > resumed, 40)
        time.sleep(0.5)
    assert drive.wrong == []
    assert drive.statuses[200] > 20


def make_late(repository: Path, name: str, module: str, class_name: str) -> Path:
    """Put another model in the place of one; give the file that makes it late."""
    (source,) = repository.glob(f"{name}/*/model.py")
    source.write_text(LATE.format(module=module, name=class_name))
    return source.parent / "late"


@pytest.mark.reliability
def test_a_late_answer_is_never_handed_out(repository: Path) -> None:
    """The fused model is late: the ensemble answers. Then it is late, too: nobody gets an answer.

    What works again is used again.
    """
    fused = make_late(repository, FUSED, "fused", "TritonPythonModel")
    step = make_late(repository, "policy_onnx-v0.2.0", "policy", "OnnxPolicy")
    with (
        serving(repository) as stack,
        driving(stack.gateway_url, 4, streams=False) as drive,
        httpx.Client(base_url=stack.gateway_url) as caller,
    ):
        url = stack.gateway_url
        wait_in_use(stack, FUSED)
        fused.touch()
        until(lambda: metric(url, DISTRUSTED + '{reason="stale"}') > 0, 5)
        wait_in_use(stack, ENSEMBLE)
        assert drive.statuses[503] < 40
        assert drive.statuses[502] == drive.statuses[500] == 0
        triton = TritonControl(f"http://{stack.triton_http}")
        with triton, pytest.raises(ControlError, match="the answer of another call"):
            triton.act(FUSED, [OBSERVATION])
        step.touch()
        until(lambda: status(url + "/readyz") == 503, 5)
        answer = predict(url)
        check_envelope(answer, 503, "SERVICE_UNAVAILABLE")
        assert "gets no requests until it works again" in answer.json()["message"]
        assert caller.post("/warmup").status_code == 503
        good = drive.last_good
        time.sleep(6)  # longer than a quarantine
        assert drive.last_good == good
        fused.unlink()
        step.unlink()
        until(lambda: status(url + "/readyz") == 200, 10)
        wait_in_use(stack, FUSED)
        assert "gave the answer of another call" in stack.output()
    assert drive.wrong == []


def forget_nonces(repository: Path) -> None:
    """Make the configurations what they were before there was a nonce."""
    for path in repository.glob("*/config.pbtxt"):
        config = configs.parse(path.read_text())
        for tensors in (config.input, config.output):
            for one in [one for one in tensors if one.name.startswith("nonce")]:
                tensors.remove(one)
        for warmup in config.model_warmup:
            warmup.inputs.pop("nonce")
        for each in config.ensemble_scheduling.step:
            each.input_map.pop("nonce")
            each.output_map.pop("nonce_echo")
        path.write_text(configs.text(config))


def test_a_model_without_a_nonce_is_served(repository: Path) -> None:
    """As an earlier release exported it: with one warning, and a metric."""
    forget_nonces(repository)
    with serving(repository) as stack, driving(stack.gateway_url, 2, streams=False) as drive:
        until(lambda: drive.statuses[200] > 40, 20)
        old = httpx.post(
            f"{stack.gateway_url}/predict",
            json={"observations": [OBSERVATION], "version": "v0.1.0"},
        )
        assert old.status_code == 200
        assert metric(stack.gateway_url, "carla_rl_answers_checked") == 0
        warned = [line for line in stack.output().splitlines() if "gives no nonce back" in line]
    assert [line.split("registry: ")[1].split()[0] for line in warned] == [
        FUSED,
        "carla_policy-v0.1.0",
    ]
    assert drive.wrong == []
    assert set(drive.statuses) == {200}


def test_the_active_version_is_checked(gateway_url: str) -> None:
    assert metric(gateway_url, "carla_rl_answers_checked") == 1
    assert metric(gateway_url, DISTRUSTED) == 0
