"""Memory under load: the regression on known series, and a real short run."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from perf.bench.results import MemorySample
from perf.studies import memory
from tests.stack import Stack

THOUSANDS = np.linspace(10, 210, 60)


def series(gateway: np.ndarray) -> list[MemorySample]:
    return [
        MemorySample(float(at), int(x * 1000), float(held), 200.0, 5.0)
        for at, (x, held) in enumerate(zip(THOUSANDS, gateway, strict=True))
    ]


def noise(scale: float) -> np.ndarray:
    return np.random.default_rng(7).normal(0, scale, len(THOUSANDS))


def test_the_slope_is_exact_on_a_line_and_outliers_do_not_move_it() -> None:
    line = 100 + 0.25 * THOUSANDS
    assert memory.theil_sen(THOUSANDS, line).value == pytest.approx(0.25)
    spoilt = line.copy()
    spoilt[::10] += 500
    slope = memory.theil_sen(THOUSANDS, spoilt)
    assert slope.value == pytest.approx(0.25, abs=0.02)
    assert np.polyfit(THOUSANDS, spoilt, 1)[0] != pytest.approx(0.25, abs=0.2)


def test_the_interval_holds_the_true_slope_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    x = np.arange(30.0)
    holds = 0
    for _ in range(300):
        slope = memory.theil_sen(x, 0.1 * x + random.normal(0, 1, len(x)))
        holds += slope.low <= 0.1 <= slope.high
    assert 0.91 <= holds / 300 <= 0.99


def test_a_slope_needs_three_places() -> None:
    with pytest.raises(ValueError, match="three different"):
        memory.theil_sen([1, 1, 2, 2], [1, 2, 3, 4])


def test_what_only_trembles_is_steady() -> None:
    verdict = memory.judge(series(100 + noise(0.3)), "gateway")
    assert verdict.kind == "steady"
    assert verdict.growth.low <= 0 <= verdict.growth.high


def test_a_leak_is_found_and_told_how_fast_it_is() -> None:
    verdict = memory.judge(series(100 + 0.05 * THOUSANDS + noise(0.3)), "gateway")
    assert verdict.kind == "grows"
    assert verdict.growth.value == pytest.approx(0.05, rel=0.1)
    assert verdict.text.startswith("the gateway grows by 0.0")


def test_what_grew_at_first_is_steady() -> None:
    held = 100 + 8 * (1 - np.exp(-(THOUSANDS - 10) / 15)) + noise(0.1)
    verdict = memory.judge(series(held), "gateway")
    assert verdict.kind == "steady"
    assert "at first" in verdict.text


def test_steps_of_shared_memory_are_growth() -> None:
    steps = np.floor(THOUSANDS / 20) * 4
    samples = [
        MemorySample(one.seconds, one.requests, one.gateway, one.triton, float(held))
        for one, held in zip(series(noise(0.1)), steps, strict=True)
    ]
    verdict = memory.judge(samples, "shm")
    assert verdict.kind == "grows"
    assert verdict.text.startswith("/dev/shm grows by ")


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="let it run longer"):
        memory.judge(series(noise(1))[:5], "gateway")


@pytest.mark.reliability
def test_a_real_run(stack: Stack) -> None:
    samples = memory.watch(stack.gateway_url, stack.process.pid, requests=10**9, warm=0)
    watched = list(itertools.islice(samples, 6))
    assert len(watched) >= 6
    assert all(
        one.requests < other.requests for one, other in zip(watched, watched[1:], strict=False)
    )
    for one in watched:
        # A Python process with FastAPI and one with Triton hold tens of megabytes each.
        assert 20 < one.gateway < 2000
        assert 20 < one.triton < 4000
        assert 0 < one.shm < one.triton
    for part in memory.PARTS:
        assert memory.judge(watched, part).text
