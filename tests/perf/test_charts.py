"""The charts of a small real measurement."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from matplotlib.figure import Figure

from perf.bench import charts, drawing, machine
from perf.bench.results import MemorySample, Results
from perf.load import closed_loop, in_process, open_loop
from perf.load.target import Target
from tests.stack import ROOT, Stack

LAYERS = ["latency", "layers", "concurrency"]


@pytest.fixture(scope="module")
def results(stack: Stack, watched: list[MemorySample]) -> Results:
    """What was measured of the stack; the layers and peers that are not there have its figures."""
    target = Target(stack.gateway_url)
    alone, many = (closed_loop.run(target, callers, 1) for callers in (1, 4))
    due = open_loop.run(target, 50, 1, 1)
    floor = in_process.run(ROOT / "model_repository", 0.2, version="v0.2.0", form="onnx")
    batch = msgspec.structs.replace(many, batch_size=8)
    fused = msgspec.structs.replace(
        alone, layer="triton-http", target="carla_policy_fused-v0.2.0", tool="perf_analyzer"
    )
    peers = [msgspec.structs.replace(one, system="another") for one in (alone, many)]
    return Results(
        started="2026-01-02T03:04:05+00:00",
        command="carlarl bench run --rate 50",
        machine=machine.facts(),
        settings={"WORKERS": "1"},
        measurements=[alone, many, due, floor, batch, fused, *peers],
        memory=watched,
    )


def _is_picture(path: Path) -> None:
    data = path.read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    assert data.startswith(b"\x89PNG")
    assert width > 900
    assert height > 500


def test_each_figure_says_which_loop_it_comes_from(results: Results, tmp_path: Path) -> None:
    drawn = {
        **{name: getattr(charts, name)(results) for name in (*LAYERS, "peers")},
        "memory": charts.memory(results.memory),
    }
    for name, picture in drawn.items():
        assert isinstance(picture, Figure), name
        assert "closed loop" in picture.get_supxlabel().lower()
        drawing.save(picture, tmp_path / f"{name}.png")
        _is_picture(tmp_path / f"{name}.png")
    (axes,) = drawn["latency"].axes
    assert "open loop, 50/s due" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_the_command(results: Results, tmp_path: Path) -> None:
    results.save(tmp_path / "kept.json")
    done = _draw(tmp_path / "kept.json")
    assert done.returncode == 0, done.stderr
    drawn = [tmp_path / "charts" / f"{name}.png" for name in LAYERS]
    assert done.stdout.split() == [str(path) for path in drawn]
    for path in drawn:
        _is_picture(path)

    (tmp_path / "bad.json").write_text("{}")
    done = _draw(tmp_path / "bad.json")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "not a results file" in done.stderr


def _draw(file: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a process: output of other threads of the tests is not in its own."""
    command = [sys.executable, "-m", "perf.bench.charts", str(file)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_results_without_measurements_have_no_figure(results: Results) -> None:
    nothing = msgspec.structs.replace(results, measurements=[])
    assert not [name for name in (*LAYERS, "peers") if getattr(charts, name)(nothing)]
