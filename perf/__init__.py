"""Benchmarks of the running stack, and of any async callable."""

from perf.bench.engine import BenchmarkConfig, BenchmarkEngine, BenchmarkResult

__all__ = ["BenchmarkConfig", "BenchmarkEngine", "BenchmarkResult"]
