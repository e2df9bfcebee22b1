"""A receiver of OTLP over HTTP, protobuf and JSON, that keeps the spans it is sent."""

from __future__ import annotations

import base64
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.http_server import HttpServer

_ID = re.compile(rb'"(traceId|spanId|parentSpanId)":"([0-9a-f]*)"')


@dataclass
class Receiver:
    """What was sent: the name of each span's service, and the span."""

    port: int = 0
    spans: list[tuple[str, Span]] = field(default_factory=list)
    _server: HttpServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def of(self, trace_id: str) -> dict[str, Span]:
        """The spans of one trace by service and name."""
        return {
            f"{service}: {span.name}": span
            for service, span in list(self.spans)
            if span.trace_id.hex() == trace_id
        }

    def start(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                receiver._take(body, self.headers["Content-Type"])
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = HttpServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def _take(self, body: bytes, kind: str) -> None:
        if kind == "application/json":  # where ids are in hex, which protobuf's own JSON is not
            body = _ID.sub(
                lambda m: b'"%s":"%s"' % (m[1], base64.b64encode(bytes.fromhex(m[2].decode()))),
                body,
            )
            request = json_format.Parse(body, ExportTraceServiceRequest())
        else:
            assert kind == "application/x-protobuf"
            request = ExportTraceServiceRequest.FromString(body)
        for sent in request.resource_spans:
            named = {one.key: one.value.string_value for one in sent.resource.attributes}
            for scope in sent.scope_spans:
                self.spans += [(named["service.name"], span) for span in scope.spans]
