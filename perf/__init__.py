"""Benchmarks of the running stack, and of any async callable."""

from perf.engine import BenchmarkConfig, BenchmarkEngine, BenchmarkResult

__all__ = ["BenchmarkConfig", "BenchmarkEngine", "BenchmarkResult"]
