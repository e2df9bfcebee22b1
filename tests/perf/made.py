"""Made-up measurements, for the rules that judge them."""

from __future__ import annotations

from perf.load.measurement import Measurement, measured


def made(p50_us: int, rate: float, concurrency: int = 1) -> Measurement:
    """100 requests that took this long each, at so many a second."""
    return measured(
        [(p50_us, 100)],
        100,
        100 / rate,
        layer="gateway",
        target="/predict",
        version="v0.2.0",
        format="onnx",
        loop="closed",
        tool="wrk",
        concurrency=concurrency,
        batch_size=1,
    )
