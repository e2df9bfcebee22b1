"""The chart of a small real measurement."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from perf.bench import charts, machine
from perf.bench.results import Results
from perf.load import closed_loop
from perf.load.target import Target
from tests.stack import ROOT, Stack


@pytest.fixture(scope="module")
def results(stack: Stack) -> Results:
    """What was measured of the stack, and the same again as of a peer."""
    target = Target(stack.gateway_url)
    alone, many = (closed_loop.run(target, callers, 1) for callers in (1, 4))
    batch = msgspec.structs.replace(many, batch_size=8)
    peers = [msgspec.structs.replace(one, system="another") for one in (alone, many)]
    return Results(
        started="2026-01-02T03:04:05+00:00",
        command="carlarl bench run",
        machine=machine.facts(),
        settings={"WORKERS": "1"},
        measurements=[alone, many, batch, *peers],
    )


def _is_picture(path: Path) -> None:
    data = path.read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    assert data.startswith(b"\x89PNG")
    assert width > 900
    assert height > 500


def test_the_command(results: Results, tmp_path: Path) -> None:
    results.save(tmp_path / "kept.json")
    done = _draw(tmp_path / "kept.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "charts" / "concurrency.png")]
    _is_picture(tmp_path / "charts" / "concurrency.png")

    (tmp_path / "bad.json").write_text("{}")
    done = _draw(tmp_path / "bad.json")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "not a results file" in done.stderr


def _draw(file: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a process: output of other threads of the tests is not in its own."""
    command = [sys.executable, "-m", "perf.bench.charts", str(file)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_results_of_one_number_of_callers_have_no_chart(results: Results, tmp_path: Path) -> None:
    for held in ([], results.measurements[:1]):
        few = msgspec.structs.replace(results, measurements=held)
        assert not charts.concurrency(few, tmp_path / "concurrency.png")
    assert not list(tmp_path.iterdir())
