"""`carlarl tune`: what it tries, chooses, writes, and leaves when it is interrupted."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from carlarl.commands import tuned_repository
from carlarl.promotion import promote
from carlarl.promotion.triton_control import TritonControl
from converters.repository import comparison
from perf.studies import tuning
from perf.studies.tuning import Found, Setting, Spread
from tests.gateway.processes import predict
from tests.stack import ROOT, clean_environment, running_stack

NOW = Setting(instances=1, threads=1, batch=256, calls=2, workers=1)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the default repository that a test may change."""
    shutil.copytree(ROOT / "model_repository", tmp_path / "model_repository")
    return tmp_path / "model_repository"


def found(noise: float) -> Found:
    return Found(NOW, NOW, noise=noise, per_s=1000.0)


def throughput(setting: Setting) -> float:
    """A machine where two workers and two instances help, and threads do harm."""
    busy = min(setting.instances, setting.calls)
    small = 0.8 ** (setting.batch < 256)
    return 1.6 ** (setting.workers > 1) * 1.2 ** (busy > 1) * 0.9 ** (setting.threads - 1) * small


def ratios(setting: Setting) -> list[float]:
    return [throughput(setting) / throughput(NOW) * wobble for wobble in (0.99, 1.0, 1.01)]


def test_the_fastest_is_found() -> None:
    result = found(noise=0.05)
    tuning.climb(result, 4, 32, lambda _, setting: ratios(setting))
    assert result.best == Setting(instances=2, threads=1, batch=256, calls=2, workers=2)
    assert result.gain == Spread.of(ratios(result.best))
    assert list(result.ratios) == ["workers", "calls", "instances", "threads", "batch"]
    assert list(result.ratios["threads"]) == [1, 2, 4]
    assert result.ratios["workers"][2].median == pytest.approx(1.6)


def test_a_gain_below_the_noise_is_none() -> None:
    result = found(noise=0.7)
    tuning.climb(result, 4, 32, lambda _, setting: ratios(setting))
    assert result.best == NOW
    assert result.gain is None
    assert not result.changes_repository


def test_a_setting_that_fails_is_never_the_best() -> None:
    result = found(noise=0.05)
    tuning.climb(result, 2, 32, lambda _, one: [0.0] if one.calls == 1 else ratios(one))
    assert result.best == Setting(instances=2, threads=1, batch=256, calls=2, workers=2)
    assert result.ratios["calls"][1] == Spread(0.0, 0.0, 0.0)


def test_an_interruption_keeps_the_best_so_far() -> None:
    result = found(noise=0.05)

    def measure(what: str, setting: Setting) -> list[float]:
        if what.startswith("calls"):
            raise KeyboardInterrupt
        return ratios(setting)

    with pytest.raises(KeyboardInterrupt):
        tuning.climb(result, 4, 32, measure)
    assert result.best == Setting(instances=1, threads=1, batch=256, calls=2, workers=2)


def test_instances_get_calls_to_be_busy() -> None:
    tried = tuning.candidates(NOW, "instances", 8, 32)
    assert [(one.instances, one.calls) for one in tried] == [(2, 2), (4, 4), (8, 8)]
    assert tuning.candidates(NOW, "workers", 1, 32) == []


def test_a_call_s_size_is_varied_where_the_load_fills_it() -> None:
    def sizes(now: Setting, at_once: int) -> list[int]:
        return [one.batch for one in tuning.candidates(now, "batch", 2, at_once)]

    assert sizes(NOW, 32) == [16]
    assert sizes(NOW, 2048) == [16, 32, 64, 128]
    assert sizes(replace(NOW, batch=64), 2048) == [16, 32, 128, 256]


@pytest.mark.reliability
@pytest.mark.live
def test_what_is_written_validates_and_is_served(source: Path) -> None:
    setting = Setting(instances=2, threads=2, batch=64, calls=4, workers=1)
    assert tuned_repository.current(source, 2, 1) == NOW
    changed = ["carla_policy_fused-v0.2.0", "carla_policy", "carla_policy-v0.2.0"]
    assert tuned_repository.write(source, setting) == changed
    assert tuned_repository.current(source, 4, 1) == setting
    assert comparison.differences(ROOT / "model_repository", source) == []
    with running_stack(MODEL_REPOSITORY=str(source), **setting.variables) as stack:
        url = f"http://{stack.triton_http}/v2/models/carla_policy_fused-v0.2.0/config"
        config = httpx.get(url).json()
        assert config["instance_group"][0]["count"] == 2
        assert config["parameters"]["threads"]["string_value"] == "2"
        assert httpx.get(f"{stack.gateway_url}/readyz").status_code == 200  # its golden answers
        assert httpx.get(f"{stack.gateway_url}/metadata").json()["maxBatchSize"] == 64
        assert predict(stack.gateway_url, 300).status_code == 200  # in five calls
        with TritonControl(f"http://{stack.triton_http}") as control:
            for version in ("v0.1.0", "v0.2.0"):
                promote.promote(source, version, control)
    tuned_repository.write(source, NOW)
    for path in source.glob("carla_policy*/config.pbtxt"):
        before = ROOT / "model_repository" / path.relative_to(source)
        assert path.read_text() == before.read_text()


def stacks(process: subprocess.Popen[str]) -> int:
    """How many `carlarl serve` it has started."""
    count = 0
    for child in psutil.Process(process.pid).children():
        with contextlib.suppress(psutil.Error):
            count += child.cmdline()[1:4] == ["-m", "carlarl", "serve"]
    return count


@pytest.mark.reliability
@pytest.mark.live
def test_ctrl_c_while_the_second_stack_starts(source: Path) -> None:
    command = [sys.executable, "-m", "carlarl", "tune", "--json", "--repository", str(source)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 90
    while stacks(process) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    told = json.loads(output)
    assert (process.returncode, told["interrupted"], told["written"]) == (0, True, [])
    assert told["best"] == told["default"]
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert comparison.differences(ROOT / "model_repository", source) == []
