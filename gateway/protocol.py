"""One connection: who may have it, how slow its caller may be, and usual predictions on it."""

import asyncio
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.doors import address, too_fast
from gateway.errors import DeadlineExceeded, ResourceExhausted, ServiceUnavailable, answer_to
from gateway.fast import Asked, FastPredict, Head, written
from gateway.joining import CONGESTED
from gateway.middleware import request_id_of
from gateway.policy import PolicyVersion
from gateway.predict import seed_of
from gateway.rows import Rows
from gateway.stream import PATH, Streams
from gateway.websocket import WebSocket

if TYPE_CHECKING:
    from gateway.traces import Trace

MAX_PIPELINED = 100
"""Requests that a caller may send ahead on one connection; one that sends more is cut off."""
SLOW_S = 5.0
"""How long a caller may take to send a head, and to read on with an answer under way."""


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which answers usual predictions itself.

    The application that uvicorn runs has them as its attribute `fast`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take what uvicorn gives."""
        super().__init__(*arguments, **options)
        self._fast: FastPredict = options["config"].loaded_app.fast
        self._streams: Streams = options["config"].loaded_app.streams
        self._within = False
        self._answering = False
        self._held = b""
        self._lost = False
        self._last = False
        self._beyond = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Note whether this connection is one too many; wait for its first request."""
        super().connection_made(transport)
        self._beyond = len(self.connections) > self._fast.max_connections
        self._head_timer = self.loop.call_later(SLOW_S, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        """Answer a usual prediction; hand anything else to the framework."""
        if self._beyond:
            self._fast.metrics.refused()
            self._end_with(ServiceUnavailable("too many connections"))
            return
        if self._answering:  # pipelined: it has to wait for its turn
            self._held += data
            self.transport.pause_reading()
            return
        arrived = time.perf_counter()
        idle = not self._within and (self.cycle is None or self.cycle.response_complete)
        read = self._fast.read(data) if idle else None
        if read is None:
            self._pass_on(data)
            return
        if self._head_timer is not None:
            self._stop_head_timer()
        self._unset_keepalive_if_required()
        head, asked, policy = read
        trace = None if self._fast.traces is None else self._fast.trace(data)
        limits, rows = self._fast.doors.limits, len(asked.observations)
        if limits is not None:
            wait_s = limits.take(head.holder or address(self.client), rows)
            if wait_s:
                self._refuse(head, too_fast(wait_s), arrived, trace)
                return
        timeout_s = min(head.deadline_s, self._fast.timeout_s)
        if self._fast.predictor.congested(policy, rows, arrived, timeout_s, self._fast.begun):
            self._refuse(head, ResourceExhausted(CONGESTED), arrived, trace)
            return
        self._answering = True
        self._fast.begun += rows
        task = self.loop.create_task(self._answer(head, asked, policy, arrived, timeout_s, trace))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to a stream, or refuse one."""
        arrived = time.perf_counter()
        end: int = sys.exception().args[0]  # type: ignore[union-attr] # the parser's, which calls for this
        under_way = self.cycle is not None and not self.cycle.response_complete
        if under_way or self.flow.write_paused:  # it was sent ahead of answers
            self.transport.abort()
            return
        scope: Any = self.scope
        request_id = request_id_of(scope)
        try:
            stream = WebSocket(scope, request_id, self._streams, self.server_state)
        except Exception as error:
            self._last = True
            self._write_error(error, PATH, "GET", request_id, arrived)
            self.transport.close()
            return
        seconds = time.perf_counter() - arrived
        self._fast.metrics.answered(PATH, "GET", 101, seconds, None)
        self._write(101, stream.lines, b"", request_id, seconds)
        self._lost = True  # for this protocol
        self._stop_head_timer()
        self.connections.discard(self)
        stream.start(self.transport, self._passed[end:])

    def on_message_begin(self) -> None:
        """Note that the framework's parser is inside a request."""
        self._within = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """Note that it is outside again."""
        self._within = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Read on only where no request that was sent ahead waits for its turn."""
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that nobody waits for the answer any more."""
        self._lost = True
        self._stop_head_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Note that the caller does not read; one that does not for long is cut off."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(SLOW_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Note that the caller reads again."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def timeout_keep_alive_handler(self) -> None:
        """End an idle connection, and one whose caller has left an answer unread at once."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP as any other error, and end the connection."""
        self._end_with(HTTPException(400, "the request is not valid HTTP"))

    def shutdown(self) -> None:
        """End the connection, after the answer that is under way."""
        if self._answering:
            self._last = True
        else:
            super().shutdown()

    def _pass_on(self, data: bytes) -> None:
        """Hand what came to the framework; a head that does not end is not waited for long."""
        self._passed = data
        super().data_received(data)
        if self._lost:
            return
        if len(self.pipeline) > MAX_PIPELINED:
            self.transport.abort()
        elif self.cycle is None or self.cycle.response_complete:
            if self._head_timer is None and self.timeout_keep_alive_task is None:
                self._head_timer = self.loop.call_later(SLOW_S, self.timeout_keep_alive_handler)
        elif self._head_timer is not None:
            self._stop_head_timer()

    def _should_upgrade_to_ws(self) -> bool:
        """Upgrade for a stream; elsewhere the wish is not heard."""
        return self.scope["method"] == "GET" and self.url.partition(b"?")[0] == PATH.encode()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing of such a wish: anyone may have it, and no library is missing."""

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    async def _answer(
        self,
        head: Head,
        asked: Asked,
        policy: PolicyVersion,
        arrived: float,
        timeout_s: float,
        trace: "Trace | None",
    ) -> None:
        fast = self._fast
        fast.begun -= len(asked.observations)  # from here on the line has them
        if fast.traces is not None:
            fast.traces.enter(trace)
        request_id = head.request_id or os.urandom(16).hex()
        seed = seed_of(asked)
        deterministic, rows = asked.deterministic, Rows.of(asked.observations, seed)
        del asked  # ten times as large as its rows, while it waits
        failed: Exception | None = None
        try:
            prediction = await fast.predictor.predict(
                policy,
                rows,
                seed,
                arrived + timeout_s,
                lambda: self._lost,
            )
        except ClientDisconnect:
            if trace is not None:
                trace.end(None, request_id, policy.version, None)
            return
        except Exception as error:
            failed = error
        if self.flow.write_paused:
            await self.flow.drain()
        now = time.perf_counter()
        if failed is None:
            seconds = now - arrived
            body = written(prediction, deterministic, seconds)
            fast.metrics.answered("/predict", "POST", 200, seconds, None)
            if fast.access.all:
                told = (request_id, prediction.version, None)
                fast.access.answered("/predict", "POST", 200, seconds, *told, trace)
            if trace is not None:
                trace.end(200, request_id, prediction.version, None)
            self._write(200, _OK % len(body), body, request_id, seconds)
        else:
            known = (policy.version, trace)
            self._write_error(failed, "/predict", "POST", request_id, arrived, *known)
        if isinstance(failed, (DeadlineExceeded, ResourceExhausted)) and not self._lost:
            self._pause(now)
        else:
            self._answered()

    def _refuse(
        self, head: Head, error: ResourceExhausted, arrived: float, trace: "Trace | None"
    ) -> None:
        """Refuse a request before it waits, and read no further for a moment."""
        request_id = head.request_id or os.urandom(16).hex()
        self._write_error(error, "/predict", "POST", request_id, arrived, trace=trace)
        self._pause(arrived)

    def _pause(self, began: float) -> None:
        """Read no further until it is this connection's turn; refusing it began at `began`."""
        self._answering = True
        self.transport.pause_reading()
        self.loop.call_later(self._fast.refusals.pause_s(began), self._read_on)

    def _read_on(self) -> None:
        if not self._lost and not self.transport.is_closing():
            self.transport.resume_reading()
        self._answered()

    def _end_with(self, error: Exception) -> None:
        """Answer what never became a request with an error, and end the connection."""
        self._last = True
        request_id = os.urandom(16).hex()
        self._write_error(error, "unmatched", "other", request_id, time.perf_counter())
        self.transport.close()

    def _write_error(
        self,
        error: Exception,
        route: str,
        method: str,
        request_id: str,
        arrived: float,
        version: str | None = None,
        trace: "Trace | None" = None,
    ) -> None:
        scope: dict[str, Any] = {"type": "http", "headers": [], "request_id": request_id}
        response = answer_to(Request(scope), error)
        status, seconds = response.status_code, time.perf_counter() - arrived
        code = scope["error_code"]
        self._fast.metrics.answered(route, method, status, seconds, code)
        told = (request_id, version, code)
        self._fast.access.answered(route, method, status, seconds, *told, trace)
        if trace is not None:
            trace.end(status, *told)
        self._write(status, _lines(response), bytes(response.body), request_id, seconds)

    def _write(
        self, status: int, lines: bytes, body: bytes, request_id: str, seconds: float
    ) -> None:
        if self._lost:
            return
        if self._fast.stopping.begun and status != 101:
            self._last = True
        defaults = self._fast.lines_of(self.server_state.default_headers)
        close = b"connection: close\r\n" if self._last else b""
        stamp = b"x-request-id: %s\r\nx-process-time: %.6f\r\n" % (request_id.encode(), seconds)
        self.transport.write(
            b"".join((STATUS_LINE[status], defaults, lines, stamp, close, b"\r\n", body))
        )

    def _answered(self) -> None:
        """Go on with what came meanwhile, or wait for the next request."""
        self._answering = False
        self.server_state.total_requests += 1
        if self._lost:
            return
        if self._last:
            self.transport.close()
            return
        if self._held:
            held, self._held = self._held, b""
            self.transport.resume_reading()
            self.data_received(held)
            return
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )


_OK = b"content-length: %d\r\ncontent-type: application/json\r\n"


def _lines(response: Response) -> bytes:
    return b"".join([b"%s: %s\r\n" % pair for pair in response.raw_headers])
