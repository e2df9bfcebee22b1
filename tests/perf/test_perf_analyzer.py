"""The real perf_analyzer; `make load-tools`, which `make test` runs, sets it up."""

from __future__ import annotations

from pathlib import Path

import pytest

from perf.load import perf_analyzer
from perf.load.generator import LoadError
from perf.load.target import fused
from tests.stack import Stack

needs_it = pytest.mark.skipif(
    perf_analyzer.missing() is not None, reason=perf_analyzer.missing() or "it is there"
)


@needs_it
@pytest.mark.parametrize(
    ("protocol", "model", "batch"),
    [("grpc", "carla_policy-v0.2.0", 4), ("http", fused("v0.2.0"), 1)],
)
def test_measures_triton(protocol: str, model: str, batch: int, stack: Stack) -> None:
    address = stack.triton_http if protocol == "http" else stack.triton_grpc
    measured = perf_analyzer.run(model, protocol, address, 2, 1.0, batch)
    assert (measured.layer, measured.target, measured.batch_size) == (
        f"triton-{protocol}",
        model,
        batch,
    )
    assert measured.requests == sum(count for _, count in measured.histogram) > 0
    assert 0.5 < measured.seconds < 30
    latency = measured.latency_ms
    assert 0 < latency.p50 <= latency.p99 <= latency.max
    # Two callers that each wait for their answers have no more than two under way, but for the
    # window's edge; so the units are right.
    assert measured.requests_per_s * latency.mean / 1000 < 4


@needs_it
def test_an_unknown_model_is_said(stack: Stack) -> None:
    with pytest.raises(LoadError, match="ended with status"):
        perf_analyzer.run("nothing", "http", stack.triton_http, 1, 1.0)


def test_says_what_to_do_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERF_ANALYZER", "/nowhere/perf_analyzer")
    with pytest.raises(LoadError, match="make perf-analyzer"):
        perf_analyzer.find()


@needs_it
def test_says_which_library_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PERF_ANALYZER", perf_analyzer.find())
    monkeypatch.setattr(perf_analyzer, "FOLDER", tmp_path)
    if perf_analyzer.missing() is None:
        pytest.skip("this machine has the libraries in its own folders")
    with pytest.raises(LoadError, match="shared libraries: lib.*: make perf-analyzer"):
        perf_analyzer.find()
