"""What counts as worse. The figures here are made up: they are what the rule is asked about."""

from __future__ import annotations

from pathlib import Path

import pytest

from perf.bench import comparison, machine, results
from perf.bench.results import Results
from perf.load.measurement import Measurement
from tests.perf.made import made


def _results(*measured: Measurement) -> Results:
    return Results(
        started="2026-01-01T00:00:00+00:00",
        command="carlarl bench",
        machine=machine.facts(),
        settings={},
        measurements=list(measured),
    )


def test_worse_beyond_the_threshold_is_named() -> None:
    before = _results(made(1000, 1000), made(2000, 1000, concurrency=8))
    now = _results(made(1300, 1000), made(2000, 1000, concurrency=8))
    worse = comparison.compare(before, now, 10).worse
    assert [(change.figure, change.case) for change in worse] == [
        ("p50 ms", "gateway: /predict v0.2.0 onnx, batch 1, 1 callers (wrk)"),
    ]
    assert "+30 %" in str(worse[0])
    assert not comparison.compare(before, now, 40).worse


def test_the_tail_may_move_ten_times_as_far() -> None:
    before, now = _results(made(1000, 1000)), _results(made(1900, 1000))
    assert [change.figure for change in comparison.compare(before, now, 10).worse] == ["p50 ms"]
    beyond = comparison.compare(before, _results(made(2100, 1000)), 10)
    assert [change.figure for change in beyond.worse] == ["p50 ms", "p99 ms"]


def test_less_throughput_is_worse_and_more_is_not() -> None:
    before = _results(made(1000, 1000))
    slower = comparison.compare(before, _results(made(1000, 800)), 10)
    assert [change.figure for change in slower.worse] == ["requests/s"]
    assert not comparison.compare(before, _results(made(900, 2000)), 10).worse


def test_what_repeats_differ_by_is_not_worse() -> None:
    before = _results(*(made(us, 1000) for us in (1000, 1500, 900)))
    now = _results(*(made(us, 1000) for us in (1400, 1450, 1350)))
    assert not comparison.compare(before, now, 10).worse
    beyond = _results(*(made(us, 1000) for us in (1700, 1710, 1690)))
    assert comparison.compare(before, beyond, 10).worse


def test_what_is_not_in_both_is_no_change() -> None:
    before = _results(made(1000, 1000), made(1000, 1000, concurrency=8))
    now = _results(made(1000, 1000, concurrency=8), made(1, 1, concurrency=32))
    found = comparison.compare(before, now, 10)
    assert {change.case for change in found.changes} == {before.measurements[1].name}
    assert found.missing == [before.measurements[0].name]


def test_results_come_back_from_their_file(tmp_path: Path) -> None:
    kept, path = _results(made(1000, 1000)), tmp_path / "new" / "results.json"
    assert kept.save(path) == path
    assert results.load(path) == kept
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_benchmark_leaves_the_older_file(tmp_path: Path) -> None:
    complete, path = _results(made(1000, 1000)), tmp_path / "results.json"
    complete.save(path)
    ended = _results()
    ended.interrupted = True
    assert ended.save(path) == tmp_path / "results.json.part"
    assert results.load(path) == complete
    assert results.load(tmp_path / "results.json.part") == ended


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"schema": 99}'])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(results.ResultsError, match="results.json"):
        results.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(results.ResultsError, match="none.json: No such file"):
        results.load(tmp_path / "none.json")
