"""Spans of the steps that a model does within one process, which are one to Triton."""

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
    """Give what records steps; None where traces are off, or OpenTelemetry's SDK is not there."""
    if not any(map(os.environ.get, NAMED)):
        return None
    try:
        return Steps()
    except ImportError:
        return None


class Steps:
    """Records steps of the requests that Triton traces, which it does as the gateway says."""

    def __init__(self) -> None:
        """Begin to send. Raises ImportError where OpenTelemetry's SDK is missing."""
        from opentelemetry.context import Context
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider, sampling
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # The gateway says where spans can't be sent; here it would be said of every batch.
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
        """Record steps that followed each other, for each of `requests` that is traced.

        `times` (time.time_ns) has when the first one began, and when each of them ended; where it
        is shorter, the last steps were not done.
        """
        for request in requests:
            carrier = request.trace().get_context()
            if carrier is None:
                continue
            parent = self._read(json.loads(carrier), self._nothing)
            for name, began, ended in zip(names, times, times[1:], strict=False):
                self._tracer.start_span(name, parent, start_time=began).end(ended)

    def close(self) -> None:
        """Send what is left, as far as that is soon done."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(FLUSH_S)
