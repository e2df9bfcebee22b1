"""Tracing of requests by OpenTelemetry; imported only where traces are sent."""

import asyncio
import logging
import os
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    Status,
    StatusCode,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

SERVICE_NAME = "carlarl-gateway"
FLUSH_S = 2.0
"""How long the end of the process waits for the last spans to be sent."""

_BY_PARENT = "parentbased_"
_DEFAULT_SAMPLER = "parentbased_always_on"
_SAMPLERS = ("always_on", "always_off", "traceidratio")
"""These decide the same each time they are asked; others may count or draw."""
_NOT_SAMPLED = re.compile("00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f][02468ace]")

log = logging.getLogger(__name__)


class Trace:
    """The span of one sampled request."""

    __slots__ = ("span",)

    def __init__(self, span: Span) -> None:
        self.span = span

    @property
    def id(self) -> str:
        """The trace's id, 32 hex digits."""
        return format_trace_id(self.span.get_span_context().trace_id)

    def end(
        self, status: int | None, request_id: str, version: str | None, error: str | None
    ) -> None:
        """End the span; `status` is None if nobody waited for the answer."""
        attributes = {
            "http.response.status_code": status,
            "carlarl.request_id": request_id,
            "carlarl.version": version,
            "error.type": error,
        }
        self.span.set_attributes({k: v for k, v in attributes.items() if v is not None})
        if status is not None and status >= 500:
            self.span.set_status(Status(StatusCode.ERROR))
        self.span.end()


class Call:
    """The spans of one Triton call, one for each sampled request in it.

    `headers` are the lines that tell Triton the first of them.
    """

    __slots__ = ("_spans", "headers")

    def __init__(self, spans: Sequence[Span], headers: bytes) -> None:
        self._spans = spans
        self.headers = headers

    def end(self, error: Exception | None) -> None:
        """End them."""
        for span in self._spans:
            if error is not None:
                span.set_status(Status(StatusCode.ERROR, str(error)))
            span.end()


class Tracing:
    """Begins the spans of sampled requests, and sends what has ended.

    The standard variables say which are sampled (`OTEL_TRACES_SAMPLER`), the name of the service
    (`OTEL_SERVICE_NAME`) and the receiver (`OTEL_EXPORTER_OTLP_ENDPOINT`).
    """

    def __init__(self) -> None:
        named = Resource.create({"service.name": SERVICE_NAME})
        resource = named.merge(OTELResourceDetector().detect())
        self._ids = _Ids()
        self._provider = TracerProvider(
            resource=resource, shutdown_on_exit=False, id_generator=self._ids
        )
        sampler = os.environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or _DEFAULT_SAMPLER
        self._foreseen = sampler.removeprefix(_BY_PARENT) in _SAMPLERS
        self._by_parent = sampler.startswith(_BY_PARENT)
        self._provider.add_span_processor(BatchSpanProcessor(_Sender()))
        self._tracer = self._provider.get_tracer("gateway")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, method: str, route: str, headers: Mapping[str, str]) -> Trace | None:
        """Begin the span of a request with these trace headers; return None if not sampled."""
        if self._foreseen and not self._sampled(headers):
            return None
        span = self._tracer.start_span(
            f"{method} {route}",
            self._propagator.extract(headers, Context()) if headers else Context(),
            SpanKind.SERVER,
            {"http.request.method": method, "http.route": route},
        )
        return Trace(span) if span.is_recording() else None

    def _sampled(self, headers: Mapping[str, str]) -> bool:
        """Return, before there is a span, whether the caller or the sampler wants one."""
        if headers:
            parent = headers.get("traceparent", "")
            return not (self._by_parent and _NOT_SAMPLED.fullmatch(parent))
        self._ids.drawn = drawn = self._ids.draw()
        decision = self._provider.sampler.should_sample(None, drawn, "").decision
        return decision is Decision.RECORD_AND_SAMPLE

    def call(
        self, model: str, observations: int, asked: Iterable[tuple[Trace | None, float]]
    ) -> Call | None:
        """Begin the spans of a call; `asked` has each request's trace, and since when it waits.

        Each sampled request gets a span for its wait and one for the call. Triton continues the
        first one; the others are linked to it. Returns None if no request is sampled.
        """
        now, since = time.time_ns(), time.perf_counter()
        spans: list[Span] = []
        for trace, began in asked:
            if trace is None:
                continue
            inside = set_span_in_context(trace.span, Context())
            entered = now - int((since - began) * 1e9)
            self._tracer.start_span("queue", inside, start_time=entered).end(now)
            spans.append(
                self._tracer.start_span(
                    "infer",
                    inside,
                    SpanKind.CLIENT,
                    {"carlarl.model": model, "carlarl.observations": observations},
                    [Link(spans[0].get_span_context())] if spans else None,
                    now,
                )
            )
        if not spans:
            return None
        told: dict[str, str] = {}
        self._propagator.inject(told, set_span_in_context(spans[0]))
        lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        return Call(spans, lines.encode("latin-1"))

    async def close(self) -> None:
        """Send what is left, for `FLUSH_S` at most."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        await asyncio.to_thread(sending.join, FLUSH_S)


class _Ids(RandomIdGenerator):
    """Give a trace the id for which the sampler was asked."""

    def __init__(self) -> None:
        self.drawn = 0
        self.draw = super().generate_trace_id

    def generate_trace_id(self) -> int:
        drawn, self.drawn = self.drawn, 0
        return drawn or self.draw()


class _Sender(SpanExporter):
    """Sends spans by OTLP; logs once that it fails, and once that it works again."""

    def __init__(self) -> None:
        self._exporter = OTLPSpanExporter()
        self._away = False
        # The exporter would say so of every try, and the queue that it is full.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        queue = logging.getLogger("opentelemetry.sdk._shared_internal")
        queue.addFilter(lambda _: not self._away)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        away = result is not SpanExportResult.SUCCESS
        if away != self._away:
            self._away = away
            log.warning(
                "traces %s", "can't be sent; they are dropped" if away else "are sent again"
            )
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]
