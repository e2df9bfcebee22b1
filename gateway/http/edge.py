"""What all connections of a process share, and what every answer carries."""

from collections.abc import Iterable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.api import codec
from gateway.api.errors import payload_of
from gateway.api.request_head import RequestHead
from gateway.http.cors import Cors
from gateway.http.graceful_shutdown import GracefulShutdown
from gateway.http.places import Places
from gateway.inference.service import Service
from gateway.observability.exchange import Exchange
from gateway.security.backoff import Backoff

Pair = tuple[bytes, bytes]


class Edge:
    """What connections work with: one for all connections of a process.

    `defaults` are the headers that uvicorn gives every answer: it makes another list each second.
    """

    def __init__(self, service: Service, stopping: GracefulShutdown) -> None:
        self.service = service
        self.observers = service.observers
        self.stopping = stopping
        self.cors = Cors(service.live)
        self.backoff = Backoff()
        self.places = Places(service.live)
        self._defaults: list[Pair] = []
        self._default_lines = b""

    def stamps(self, head: RequestHead, request_id: str, seconds: float) -> list[Pair]:
        """Return the headers that name the request of an answer, and those of CORS.

        Every answer carries them, whichever part writes it.
        """
        stamps = [
            (b"x-request-id", request_id.encode()),
            (b"x-process-time", b"%.6f" % seconds),
        ]
        echo = head.echo
        if echo is not None:
            stamps.append((b"x-carlarl-echo", echo))
        stamps += self.cors.headers(head.found)
        return stamps

    def answer(
        self, status: int, headers: Iterable[Pair], body: bytes, close: bool, defaults: list[Pair]
    ) -> bytes:
        """Write an answer; `close` says that it is the connection's last."""
        if defaults is not self._defaults:
            self._defaults = defaults
            self._default_lines = b"".join([b"%s: %s\r\n" % pair for pair in defaults])
        lines = [b"%s: %s\r\n" % pair for pair in headers]
        if status != 101:
            lines.append(b"content-length: %d\r\n" % len(body))
        if close:
            lines.append(b"connection: close\r\n")
        return b"".join((STATUS_LINE[status], self._default_lines, *lines, b"\r\n", body))

    def refusal(
        self,
        error: Exception,
        exchange: Exchange,
        head: RequestHead,
        form: str,
        close: bool,
        defaults: list[Pair],
    ) -> bytes:
        """Count an error, and write its answer in the format `form`."""
        payload = payload_of(error, exchange.request_id)
        seconds = exchange.answer(payload.status, payload.code)
        headers = [
            (name.lower().encode(), value.encode("latin-1"))
            for name, value in payload.headers.items()
            if name != "Connection"  # `close` says it
        ]
        headers.append((b"content-type", form.encode()))
        headers += self.stamps(head, exchange.request_id, seconds)
        body = codec.encode[form](payload.envelope)
        return self.answer(payload.status, headers, body, close, defaults)
