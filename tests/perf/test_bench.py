"""`carlarl bench` against the running stack."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from perf.bench import results
from perf.load import perf_analyzer, processes
from tests.gateway.processes import free_port, gateway_process
from tests.stack import ROOT, Stack, clean_environment

Carlarl = Callable[..., subprocess.CompletedProcess[str]]


def _places(stack: Stack) -> dict[str, str]:
    """Where the stack listens, as its user would have told `carlarl serve`."""
    addresses = {
        "PORT": stack.gateway_url,
        "TRITON_HTTP_PORT": stack.triton_http,
        "TRITON_GRPC_PORT": stack.triton_grpc,
    }
    return {name: address.rpartition(":")[2] for name, address in addresses.items()}


def test_the_usual_line(stack: Stack, carlarl: Carlarl) -> None:
    line = "bench run --batch-sizes 1 --concurrency 8 --duration 1 --json"
    done = carlarl(*line.split(), **_places(stack))
    assert done.returncode == 0, done.stderr
    found = msgspec.json.decode(done.stdout, type=results.Results)
    assert not found.interrupted
    assert found.machine.cores > 0
    assert found.settings["URL"] == stack.gateway_url
    layers = {one.layer for one in found.measurements}
    missing = perf_analyzer.missing()
    if missing is None:
        assert layers == {"in-process", "triton-http", "triton-grpc", "gateway"}
    else:
        assert layers == {"in-process", "gateway"}
        assert f"triton-http, triton-grpc: {missing}" in found.left_out
    for one in found.measurements:
        assert one.requests > 0
        assert not one.errors
        assert one.histogram
        assert (one.version, one.format, one.batch_size) == ("v0.2.0", "onnx", 1)
        assert one.concurrency == (1 if one.layer == "in-process" else 8)


@pytest.mark.reliability
def test_batches_and_rate_of_its_own_stack(carlarl: Carlarl) -> None:
    line = "bench run --layers gateway --concurrency 2 --batch-sizes 1,4 --duration 1 --rate 50"
    done = carlarl(*line.split(), PORT=str(free_port()))
    assert done.returncode == 0, done.stderr
    assert "starting a stack on free ports" in done.stderr
    assert "v0.2.0 onnx: p50 / p99 ms, requests/s" in done.stdout
    rows = [line.split(" | ")[:2] for line in done.stdout.splitlines() if " ms, " in line]
    loads = ("2 callers", "50/s due")
    assert rows[1:] == [[f"| {batch}", load] for batch in (1, 4) for load in loads]


def test_without_wrk_and_perf_analyzer(stack: Stack, carlarl: Carlarl) -> None:
    line = "bench run --layers triton-grpc,gateway --concurrency 2 --duration 1 --json"
    bare = {"PATH": "/nowhere", "PERF_ANALYZER": "/nowhere/perf_analyzer"}
    done = carlarl(*line.split(), **_places(stack), **bare)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [one["tool"] for one in found["measurements"]] == ["perf.load.generator"]
    assert found["left_out"] == [
        "triton-http, triton-grpc: PERF_ANALYZER=/nowhere/perf_analyzer is no program: "
        "make perf-analyzer",
        "wrk: missing (apt-get install wrk); perf.load.generator takes its place",
    ]


def test_ctrl_c_keeps_what_was_measured_beside_the_older_file(stack: Stack, tmp_path: Path) -> None:
    kept = tmp_path / "results.json"
    kept.write_text("the results of an earlier hour")
    line = "bench run --layers in-process,gateway --concurrency 1 --duration 60 --save-results"
    with subprocess.Popen(
        [sys.executable, "-m", "carlarl", *line.split(), str(kept), "--url", stack.gateway_url],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 60
        while not _loads_the_gateway(process.pid):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert kept.read_text() == "the results of an earlier hour"
    assert f"kept in {kept}.part" in said
    found = results.load(tmp_path / "results.json.part")
    assert found.interrupted
    assert [one.layer for one in found.measurements] == ["in-process"]


def _loads_the_gateway(pid: int) -> bool:
    """Whether a load generator runs below `pid`: so what came before the gateway is measured."""
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            command = child.cmdline()
            if "perf.load.generator" in command or any("/predict" in part for part in command):
                return True
    return False


@pytest.fixture(scope="module")
def slow_gateway(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway with 2 ms of sleep before each call of Triton, beside the stack's own."""
    folder = tmp_path_factory.mktemp("slow")
    shutil.copytree(ROOT / "gateway", folder / "gateway")
    module = folder / "gateway" / "triton" / "client.py"
    call = "        tensors = tensors_of(model, rows)\n"
    source = module.read_text()
    assert source.count(call) == 1
    source = source.replace("import asyncio\n", "import asyncio\nimport time\n", 1)
    module.write_text(source.replace(call, f"        time.sleep(0.002)\n{call}"))
    triton = f"http://{stack.triton_http}"
    with gateway_process(cwd=folder, TRITON_URL=triton, PYTHONPATH=str(folder)) as url:
        yield url


@pytest.mark.reliability
def test_a_deliberate_slow_down_is_caught(
    stack: Stack, slow_gateway: str, carlarl: Carlarl, tmp_path: Path
) -> None:
    baseline, now = (str(tmp_path / name) for name in ("baseline.json", "now.json"))
    line = "bench run --layers gateway --concurrency 1 --duration 1 --repeats 3"

    def measured_and_compared() -> subprocess.CompletedProcess[str]:
        for file, url in ((baseline, stack.gateway_url), (now, slow_gateway)):
            kept = carlarl(*line.split(), "--save-results", file, "--url", url)
            assert kept.returncode == 0, kept.stderr
        return carlarl("bench", "compare", baseline, now, "--threshold", "10")

    case = "  gateway: /predict v0.2.0 onnx, batch 1, 1 callers"
    for _ in range(5):  # a machine whose load changes can hide 2 ms: then its repeats differ
        done = measured_and_compared()
        named = [line for line in done.stderr.splitlines() if line.startswith(case)]
        if any("p50 ms" in line for line in named):
            break
    assert done.returncode == 1
    assert f"worse than {baseline} by more than 10 %:" in done.stderr
    assert any("p50 ms" in line for line in named), done.stderr
    assert len(results.load(Path(baseline)).measurements) == 3
    same = carlarl("bench", "compare", baseline, baseline)
    assert (same.returncode, "no case is worse" in same.stderr) == (0, True)


def test_settings_have_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in processes.settings():
        monkeypatch.delenv(name)
    monkeypatch.setenv("WORKERS", "2")
    monkeypatch.setenv("TRITON_SECRET", "a" * 40)
    assert processes.settings() == {"WORKERS": "2", "TRITON_SECRET": "**********"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--batch-sizes", "1,x"], "x"),
        (["run", "--batch-sizes", "0"], "0 is not in the range"),
        (["run", "--layers", "cache"], "cache"),
        (["run", "--url", "localhost"], "must begin with http"),
        (["peers", "--peer", "another"], "choose from fastapi_onnxruntime"),
    ],
)
def test_bad_use(arguments: list[str], said: str, carlarl: Carlarl) -> None:
    done = carlarl("bench", *arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_failures_say_what_to_do(stack: Stack, carlarl: Carlarl, tmp_path: Path) -> None:
    nobody = carlarl("bench", "run", "--url", "http://127.0.0.1:1")
    assert (nobody.returncode, "no answer" in nobody.stderr) == (1, True)
    missing = carlarl("bench", "compare", str(tmp_path / "none.json"))
    assert missing.returncode == 1
    assert "carlarl bench run --save-results" in missing.stderr
