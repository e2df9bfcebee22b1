from __future__ import annotations

import asyncio
import subprocess
import sys

import httpx
import pytest

from perf import BenchmarkConfig, BenchmarkEngine
from tests.stack import ROOT


def test_defaults() -> None:
    config = BenchmarkConfig()
    thresholds = config.p50_threshold_ms, config.p95_threshold_ms, config.p99_threshold_ms
    assert thresholds == (10, 20, 50)
    assert config.throughput_threshold_rps == 1000
    assert config.max_memory_usage_mb == 1024


async def _nothing() -> None:
    pass


def test_passes_what_is_fast() -> None:
    config = BenchmarkConfig(warmup_iterations=3, measurement_iterations=50)
    result = asyncio.run(BenchmarkEngine(config).run_benchmark(_nothing))
    assert result.iterations == 50
    assert 0 <= result.p50_ms <= result.p90_ms <= result.p95_ms <= result.p99_ms <= result.max_ms
    assert {check.name for check in result.checks} == {
        "P50 ms",
        "P95 ms",
        "P99 ms",
        "requests/s",
        "memory MB",
    }


def test_fails_by_each_threshold() -> None:
    async def slow() -> None:
        await asyncio.sleep(0.003)

    config = BenchmarkConfig(
        warmup_iterations=0,
        measurement_iterations=5,
        p50_threshold_ms=2,
        p95_threshold_ms=2,
        p99_threshold_ms=2,
        throughput_threshold_rps=1000,
        max_memory_usage_mb=1,
    )
    result = asyncio.run(BenchmarkEngine(config).run_benchmark(slow))
    assert not result.passed
    assert len(result.failures) == 5
    assert result.failures[0].startswith("P50 ms: ")
    loose = BenchmarkConfig(0, 5, (1,), 6e4, 6e4, 6e4, 0, 1e6)
    assert asyncio.run(BenchmarkEngine(loose).run_benchmark(slow)).passed


def test_counts_calls_and_gives_observations() -> None:
    sizes: list[int] = []

    async def infer(observations: list[dict[str, object]]) -> None:
        sizes.append(len(observations))
        assert set(observations[0]) == {"speed", "steering", "sensors"}

    config = BenchmarkConfig(warmup_iterations=2, measurement_iterations=3, batch_sizes=(1, 4))
    results = asyncio.run(BenchmarkEngine(config).run_sweep(infer))
    assert [result.batch_size for result in results] == [1, 4]
    assert sizes == [1] * 5 + [4] * 5


def test_what_infer_raises_is_raised() -> None:
    async def broken(_: object) -> None:
        raise RuntimeError("no policy")

    with pytest.raises(RuntimeError, match="no policy"):
        asyncio.run(BenchmarkEngine().run_benchmark(broken))


@pytest.mark.parametrize(
    "wrong", [{"measurement_iterations": 0}, {"warmup_iterations": -1}, {"batch_sizes": (0,)}]
)
def test_refuses_what_can_not_be_measured(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="or more"):
        BenchmarkConfig(**wrong)  # type: ignore[arg-type]


def test_measures_the_gateway(gateway_url: str) -> None:
    async def main() -> None:
        async with httpx.AsyncClient(base_url=gateway_url) as client:

            async def infer(observations: list[dict[str, object]]) -> None:
                asked = {"observations": observations, "deterministic": True}
                (await client.post("/predict", json=asked)).raise_for_status()

            config = BenchmarkConfig(measurement_iterations=20)
            result = await BenchmarkEngine(config).run_benchmark(infer, batch_size=8)
            assert result.p50_ms > 0
            assert result.throughput_rps == pytest.approx(1e3 / result.mean_ms)

    asyncio.run(main())


def test_import_is_light() -> None:
    code = "import perf, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"numpy", "torch", "onnxruntime", "tritonclient", "hdrh"} & set(done.stdout.split())
