"""One HTTP connection: it reads requests, answers them in order, and bounds size and time."""

import asyncio
import logging
import time
from collections import deque
from typing import Any

from starlette.exceptions import HTTPException
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from gateway.api.errors import (
    DeadlineExceeded,
    ResourceExhausted,
    ServiceUnavailable,
)
from gateway.api.paths import METRICS, PREDICT, PROBES, STREAM
from gateway.api.problems import JSON
from gateway.api.request_head import RequestHead
from gateway.http.application_request import ApplicationRequest
from gateway.http.edge import Edge, Pair
from gateway.http.parser import MAX_AHEAD, RequestParser, bad_request
from gateway.http.patience import Patience
from gateway.http.predict import Outcome, Predict
from gateway.observability.exchange import Exchange
from gateway.stream.connection import WebSocket

SLOW_S = 5.0
"""How long a connection may be idle. A caller may also take so long to send a head, to send the
rest of a body that is already answered, and to go on reading an answer."""
BEYOND_S = 2.0
"""How long a head may take on a reserved connection, which is one beyond the limit."""
LINGER_S, LINGER_BYTES = 1.0, 1 << 20
"""How long, and how many bytes, are read and dropped after an answer that ends a connection early.
Closing a connection with unread bytes resets it, and the caller may lose that answer. A new
connection has so long for its first request when the gateway ends."""

_PREDICT = PREDICT.encode()
_ALWAYS_SERVED = frozenset(path.encode() for path in PROBES | METRICS)

log = logging.getLogger(__name__)


class HttpConnection(asyncio.Protocol):
    """The server's side of one HTTP/1.1 connection.

    It answers `POST /predict` itself, with `edge` of the application that uvicorn runs. Other
    requests go to that application through uvicorn's request-response cycle. A `WebSocket` takes
    the connection over for upgrades of `/stream`; other upgrades are ignored.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config = config
        self._edge: Edge = config.loaded_app.edge
        self._state: Any = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        if config.is_ssl:
            self._edge.places.expect(self)
        self._transport: Any = None
        self._flow: FlowControl
        self._parser: RequestParser
        self._patience: Patience
        self._head_begun = False
        self._incoming: Predict | ApplicationRequest | None = None
        """The request whose body is being read."""
        self._pipeline: deque[Predict | ApplicationRequest] = deque()
        """The requests in their order; `_started` says that the first one is being answered."""
        self._started = False
        self._advancing = False
        self._resting = False
        self._error: Exception | None = None
        """Why no further request is read."""
        self._dropped_bytes = 0
        self._expecting = False
        """Whether the request whose body is being read waits for `100 Continue`."""
        self._last = False
        self._lost = False
        self._beyond = False
        self._write_timer: asyncio.TimerHandle | None = None

    # What the transport calls.

    def connection_made(self, transport: Any) -> None:
        """Take a place among the connections; wait for the first request."""
        self._transport = transport
        self._parser = RequestParser(self._on_request, self._on_body, self._on_complete)
        self._patience = Patience(self._loop, self._too_slow)
        self._flow = FlowControl(transport)
        self._client = get_remote_addr(transport)
        self._beyond = self._edge.places.take(self, len(self._state.connections))
        self._state.connections.add(self)
        self._patience.wait(BEYOND_S if self._beyond else SLOW_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the work on requests: nobody waits for the answers."""
        self._leave()
        for one in self._pipeline:
            one.abandon()
        self._flow.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Feed the parser; each request that it finds is answered, or waits for its turn."""
        if self._error is not None:
            self._dropped_bytes += len(data)
            if self._pipeline:
                self._flow.pause_reading()
            elif self._dropped_bytes > LINGER_BYTES:
                self._transport.abort()
            return
        try:
            rest = self._parser.feed(data)
        except (HTTPException, ServiceUnavailable) as error:
            self._fail(error)
            return
        if rest is not None:
            self._open_stream(rest)
        elif self._parser.in_head or self._incoming is not None:
            self._wait_for_rest()

    def pause_writing(self) -> None:
        """Stop writing: the caller does not read. It is cut off after `SLOW_S`."""
        self._flow.pause_writing()
        self._write_timer = self._loop.call_later(SLOW_S, self._transport.abort)

    def resume_writing(self) -> None:
        """Go on writing: the caller reads again."""
        self._flow.resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        self._advance()

    def shutdown(self) -> None:
        """End the connection after the current answer; uvicorn calls this when it stops.

        A new connection still has `LINGER_S` for its first request.
        """
        self._last = True
        first = self._pipeline[0] if self._pipeline else None
        if first is None:
            if self._parser.method:
                self._transport.close()
            else:
                self._patience.wait(LINGER_S)
        else:
            first.keep_alive = False

    def drop(self) -> None:
        """End the connection at once: another one needs its place."""
        self._transport.abort()

    # What uvicorn's cycle calls of its transport.

    def write(self, data: bytes) -> None:
        """Write a piece of an answer."""
        self._transport.write(data)

    def is_closing(self) -> bool:
        """Return whether nothing more can be written."""
        return bool(self._transport.is_closing())

    def close(self) -> None:
        """End the connection, at once or after a complete answer."""
        self._last = True
        first = self._pipeline[0] if self._pipeline else None
        if not (isinstance(first, ApplicationRequest) and first.response_complete):
            self._transport.close()

    # What the parser calls.

    def _on_request(self) -> None:
        """Append the request to the pipeline, or refuse it."""
        arrived = time.perf_counter()
        parser = self._parser
        self._head_begun = False
        incoming: Predict | ApplicationRequest
        if parser.method == b"POST" and parser.path() == _PREDICT and not self._beyond:
            incoming = Predict(
                self._edge.service, parser.head, self._client, arrived, parser.keep_alive
            )
            self._expecting = incoming.error is None and parser.expects_continue()
        else:
            if self._beyond:
                probe = parser.method in (b"GET", b"HEAD") and parser.path() in _ALWAYS_SERVED
                if not probe:
                    self._edge.observers.metrics.refused.inc()
                    raise ServiceUnavailable("too many connections")
            incoming = self._application_request()
        self._incoming = incoming
        self._pipeline.append(incoming)
        self._patience.stop()
        if len(self._pipeline) > 1:
            self._flow.pause_reading()
            if len(self._pipeline) > MAX_AHEAD:
                self._transport.abort()
        elif not isinstance(incoming, Predict) or incoming.error is not None or self._expecting:
            self._advance()

    def _on_body(self, body: bytes) -> None:
        """Take a piece of a body, or drop it if the request is answered already."""
        incoming = self._incoming
        if incoming is not None and incoming.error is None:
            incoming.feed(body)
            if incoming.error is not None:
                self._advance()

    def _on_complete(self) -> None:
        """Start the request if it is its turn."""
        incoming, self._incoming = self._incoming, None
        if incoming is None:
            return
        if not self._parser.keep_alive:
            incoming.keep_alive = False
        incoming.complete = True
        self._advance()

    def _wait_for_rest(self) -> None:
        """Limit the time for the rest of a head or of a body."""
        first = self._pipeline[0] if self._pipeline else None
        if self._parser.in_head:
            if not (self._head_begun or self._pipeline or self._beyond):
                self._patience.wait(SLOW_S)
            self._head_begun = True
        elif first is self._incoming and isinstance(first, Predict) and not self._started:
            self._patience.wait(max(0.0, first.deadline - time.perf_counter()))

    def _scope(self) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": self._config.asgi_version, "spec_version": "2.3"},
            "server": get_local_addr(self._transport),
            "client": self._client,
            "scheme": "https" if is_ssl(self._transport) else "http",
            "root_path": "",
            "state": self._app_state.copy(),
            **self._parser.scope(),
        }

    def _application_request(self) -> ApplicationRequest:
        return ApplicationRequest(
            self._config,
            self._state,
            self._scope(),
            self,
            self._flow,
            expects_continue=self._parser.expects_continue(),
            keep_alive=self._parser.keep_alive and not self._beyond,
            on_response=self._answered,
        )

    def _open_stream(self, rest: bytes) -> None:
        """Hand the connection over to a stream, or refuse the upgrade."""
        head = self._parser.head
        exchange = Exchange(
            self._edge.observers, STREAM, "GET", time.perf_counter(), head.request_id
        )
        if self._pipeline or self._resting or self._flow.write_paused:  # answers are due before
            self._fail(bad_request(), exchange)
            return
        try:
            if self._beyond:
                raise ServiceUnavailable("too many connections")
            stream = WebSocket(self._scope(), exchange.request_id, self._edge.service, self._state)
        except Exception as error:
            self._fail(error, exchange)
            return
        seconds = exchange.answer(101)
        stamps = self._edge.stamps(head, exchange.request_id, seconds)
        self._write(101, [*stream.headers, *stamps], b"", close=False)
        self._leave()
        stream.start(self._transport, rest)

    # Answering.

    def _advance(self) -> None:
        """Start requests in their order, until one is not finished at once."""
        if self._advancing:
            return
        self._advancing = True
        while self._pipeline and not (
            self._started or self._resting or self._lost or self._flow.write_paused
        ):
            first = self._pipeline[0]
            if isinstance(first, Predict) and first.error is None and not first.complete:
                if self._expecting:  # it is the last request of the pipeline
                    self._expecting = False
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                self._patience.wait(max(0.0, first.deadline - time.perf_counter()))
                break
            self._started = True
            self._patience.stop()
            if isinstance(first, Predict) and first.error is not None:
                self._answer(first, first.error)
            else:
                first.start(self._answer)
        self._advancing = False

    def _answer(self, one: Predict, outcome: Outcome) -> None:
        """Write the answer to the first request of the pipeline."""
        if self._lost:
            return
        try:
            close = self._last or not one.keep_alive or self._edge.stopping.begun
            if isinstance(outcome, Exception):
                late = isinstance(outcome, DeadlineExceeded)
                close = close or (late and not one.complete)
                self._refuse(outcome, one.exchange, one.head, one.form, close)
                busy = late or isinstance(outcome, ResourceExhausted)
                if busy and one.complete and not (close or one.head.by_proxy):
                    self._rest(one.exchange.arrived if not late else time.perf_counter())
            else:
                seconds, body = one.answer(outcome)
                stamps = self._edge.stamps(one.head, one.exchange.request_id, seconds)
                self._write(200, [(b"content-type", one.form.encode()), *stamps], body, close)
        except Exception:
            log.exception("an answer can't be written")
            self._transport.abort()
            return
        if close:
            self._last = True
        self._answered()

    def _answered(self) -> None:
        """Go on with the next request, or wait for one; uvicorn's cycle calls this, too."""
        self._started = False
        one = self._pipeline.popleft()
        self._state.total_requests += 1
        if self._lost or self._transport.is_closing():
            return
        if self._last:
            if one is self._incoming:
                self._close_gently()
            else:
                self._transport.close()
            return
        if len(self._pipeline) <= 1 and not self._resting:
            self._flow.resume_reading()
        if self._pipeline:
            self._advance()
        elif self._error is not None:
            self._fail(self._error)
        else:
            self._patience.wait(SLOW_S)

    def _rest(self, began: float) -> None:
        """Pause reading until this connection's turn; refusing its request took since `began`."""
        self._resting = True
        self._flow.pause_reading()
        self._loop.call_later(self._edge.backoff.pause_s(began), self._go_on)

    def _go_on(self) -> None:
        self._resting = False
        if not self._lost and not self._transport.is_closing():
            self._flow.resume_reading()
            self._advance()

    def _fail(self, error: Exception, exchange: Exchange | None = None) -> None:
        """Answer an error that ends the connection, after the answers to earlier requests."""
        self._error = error
        broken, self._incoming = self._incoming, None
        if broken is not None:  # its body can't be read
            answered = not self._pipeline or self._pipeline[-1] is not broken
            if isinstance(broken, ApplicationRequest):
                answered = answered or broken.response_started
            broken.abandon()
            if answered:
                self._close_gently()
                return
            self._pipeline.pop()
            self._started = self._started and bool(self._pipeline)
        if self._pipeline or self._lost:
            return
        exchange = exchange or Exchange(
            self._edge.observers, "unmatched", "other", time.perf_counter()
        )
        head = self._parser.head_so_far()
        self._refuse(error, exchange, head, JSON, close=True)
        self._close_gently()

    def _refuse(
        self, error: Exception, exchange: Exchange, head: RequestHead, form: str, close: bool
    ) -> None:
        defaults = self._state.default_headers
        self._transport.write(self._edge.refusal(error, exchange, head, form, close, defaults))

    def _write(self, status: int, headers: list[Pair], body: bytes, close: bool) -> None:
        defaults = self._state.default_headers
        self._transport.write(self._edge.answer(status, headers, body, close, defaults))

    # The end.

    def _too_slow(self) -> None:
        first = self._pipeline[0] if self._pipeline else None
        if isinstance(first, Predict) and not first.complete and not self._started:
            self._started = True
            self._answer(first, first.late())
        elif self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()

    def _close_gently(self) -> None:
        """Send no more, and drop what still comes for a moment."""
        self._error = self._error or bad_request()  # what comes from now on is dropped
        self._flow.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._loop.call_later(LINGER_S, self._transport.close)

    def _leave(self) -> None:
        self._lost = True
        self._state.connections.discard(self)
        self._edge.places.leave(self)
        self._patience.cancel()
        self._parser.close()
        del self._parser  # which refers to this
        if self._write_timer is not None:
            self._write_timer.cancel()
