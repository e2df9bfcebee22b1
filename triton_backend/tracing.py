"""Spans of the steps inside one model, which Triton sees as one."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Sequence
from typing import Any

NAMED = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
FLUSH_S = 1.0


def steps() -> Steps | None:
    """Return a recorder, or None if traces are off or OpenTelemetry's SDK is not installed."""
    if not any(map(os.environ.get, NAMED)):
        return None
    try:
        return Steps()
    except ImportError:
        return None


class Steps:
    """Records the steps of requests that Triton traces. The gateway decides which these are."""

    def __init__(self) -> None:
        """Start to send spans. Raises ImportError if OpenTelemetry's SDK is missing."""
        from opentelemetry.context import Context
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider, sampling
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # The gateway reports that spans can't be sent; here it would be logged for each batch.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        service = os.environ.get("OTEL_SERVICE_NAME") or "carlarl"
        self._provider = TracerProvider(
            sampling.ALWAYS_ON,
            Resource.create({"service.name": f"{service}-triton"}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("triton_backend")
        self._read: Any = TraceContextTextMapPropagator().extract
        self._nothing = Context()

    def record(self, requests: Sequence[Any], names: Sequence[str], times: Sequence[int]) -> None:
        """Record successive steps for each of `requests` that is traced.

        `times` (time.time_ns) holds the start of the first step and the end of each. If it is
        shorter than that, the last steps were not done.
        """
        for request in requests:
            carrier = request.trace().get_context()
            if carrier is None:
                continue
            parent = self._read(json.loads(carrier), self._nothing)
            for name, began, ended in zip(names, times, times[1:], strict=False):
                self._tracer.start_span(name, parent, start_time=began).end(ended)

    def close(self) -> None:
        """Send the rest, for at most FLUSH_S seconds."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(FLUSH_S)
