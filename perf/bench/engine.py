"""Measure an async callable against thresholds, for tests and notebooks (see perf/README.md)."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from perf.load.observations import rows

Infer = Callable[..., Awaitable[Any]]
"""Takes a list of observations, each `{"speed", "steering", "sensors"}`; or nothing."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """How long to measure, and what to pass; thresholds are exclusive bounds.

    Raises ValueError for iterations or batch sizes below 1, and for a negative warm-up.
    """

    warmup_iterations: int = 10
    measurement_iterations: int = 100
    batch_sizes: Sequence[int] = (1, 4, 8, 16, 32)
    """For `run_sweep`."""
    p50_threshold_ms: float = 10.0
    p95_threshold_ms: float = 20.0
    p99_threshold_ms: float = 50.0
    throughput_threshold_rps: float = 1000.0
    """Calls a second at the least, one after another."""
    max_memory_usage_mb: float = 1024.0
    """Of this process."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.warmup_iterations < 0 or self.measurement_iterations < 1:
            raise ValueError(
                "warmup_iterations must be 0 or more, measurement_iterations 1 or more"
            )
        if any(size < 1 for size in self.batch_sizes):
            raise ValueError(f"batch_sizes must be 1 or more: {list(self.batch_sizes)}")


@dataclass(frozen=True)
class Check:
    """One threshold, and what was measured."""

    name: str
    measured: float
    threshold: float
    passed: bool

    def __str__(self) -> str:
        """Say it in a line."""
        return f"{self.name}: {self.measured:.3f}, threshold {self.threshold:g}"


@dataclass(frozen=True)
class BenchmarkResult:
    """What was measured; latencies in milliseconds, of calls one after another."""

    batch_size: int
    iterations: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    throughput_rps: float
    """Calls a second; times `batch_size`, it is observations a second."""
    memory_usage_mb: float
    """The most memory that this process had resident meanwhile."""
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every threshold was kept."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> list[str]:
        """The thresholds that were not kept, a line each."""
        return [str(check) for check in self.checks if not check.passed]


class BenchmarkEngine:
    """Measures async callables as a configuration says."""

    def __init__(self, config: BenchmarkConfig | None = None) -> None:
        """Take the configuration; None for the defaults."""
        self.config = config or BenchmarkConfig()

    async def run_benchmark(self, infer: Infer, batch_size: int = 1) -> BenchmarkResult:
        """Await `infer` again and again with `batch_size` observations.

        An `infer` that takes no argument is called without. Raises what `infer` raises, and
        ValueError for a batch below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more: {batch_size}")
        arguments = (rows(batch_size),) if _takes_one(infer) else ()
        process, clock = psutil.Process(), time.perf_counter
        for _ in range(self.config.warmup_iterations):
            await infer(*arguments)
        iterations = self.config.measurement_iterations
        taken, resident = [], 0
        for index in range(iterations):
            began = clock()
            await infer(*arguments)
            taken.append(clock() - began)
            if index % max(1, iterations // 100) == 0:
                resident = max(resident, process.memory_info().rss)
        return self._result(batch_size, sorted(taken), resident / 2**20)

    async def run_sweep(self, infer: Infer) -> list[BenchmarkResult]:
        """Measure each of the configuration's batch sizes."""
        return [await self.run_benchmark(infer, size) for size in self.config.batch_sizes]

    def _result(self, batch_size: int, taken: list[float], memory: float) -> BenchmarkResult:
        config, total = self.config, sum(taken)
        ms = {
            f"p{percent}_ms": taken[max(0, math.ceil(len(taken) * percent / 100) - 1)] * 1e3
            for percent in (50, 90, 95, 99)
        }
        rate, least = len(taken) / max(total, 1e-9), config.throughput_threshold_rps
        bounds = (
            ("P50 ms", ms["p50_ms"], config.p50_threshold_ms),
            ("P95 ms", ms["p95_ms"], config.p95_threshold_ms),
            ("P99 ms", ms["p99_ms"], config.p99_threshold_ms),
            ("memory MB", memory, config.max_memory_usage_mb),
        )
        return BenchmarkResult(
            batch_size=batch_size,
            iterations=len(taken),
            mean_ms=total / len(taken) * 1e3,
            max_ms=taken[-1] * 1e3,
            throughput_rps=rate,
            memory_usage_mb=memory,
            checks=(
                *(Check(name, value, bound, value < bound) for name, value, bound in bounds),
                Check("requests/s", rate, least, rate > least),
            ),
            **ms,
        )


def _takes_one(infer: Infer) -> bool:
    try:
        inspect.signature(infer).bind(None)
    except (TypeError, ValueError):
        return False
    return True
