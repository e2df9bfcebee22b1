"""What every request passes through: its id, its time, its count, its key and its errors."""

import os
import re
import time
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.access import AccessLog
from gateway.doors import DOCS, METRICS, PROBES, Doors
from gateway.errors import error_response, on_error
from gateway.metrics import Metrics
from gateway.settings import Settings
from gateway.stopping import Stopping

if TYPE_CHECKING:
    from gateway.traces import Traces

_NOT_FRAMED = (b"content-security-policy", b"frame-ancestors 'none'")
SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class Arrival:
    """Gives a request its id, its time of arrival and its count; the outermost of all.

    Sets `request_id` and `arrived` (seconds of `time.perf_counter`) in the scope. HEAD is
    served as GET; the server leaves the body out.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        paths: Collection[str],
        stopping: Stopping,
        access: AccessLog,
        traces: "Traces | None" = None,
    ) -> None:
        """Count a request under its path where `paths` has it, else under "unmatched"."""
        self._stopping = stopping
        self._access = access
        self._traces = traces
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arrived = time.perf_counter()
        request_id = request_id_of(scope)
        method = scope["method"]
        inner = {
            **scope,
            "headers": [(b"x-request-id", request_id.encode()), *scope["headers"]],
            "method": "GET" if method == "HEAD" else method,
            "request_id": request_id,
            "arrived": arrived,
            "error_code": None,
            "policy_version": None,
        }

        path = scope["path"]
        route = path if path in self._paths else "unmatched"
        trace = None
        if self._traces is not None:
            if path not in PROBES and path not in METRICS:
                pairs = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in scope["headers"]]
                trace = self._traces.begin(method, route, trace_headers(pairs))
            self._traces.enter(trace)

        async def send_stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                seconds = time.perf_counter() - arrived
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    (b"x-process-time", b"%.6f" % seconds),
                ]
                if self._stopping.begun:
                    message["headers"].append((b"connection", b"close"))
                if path in DOCS:
                    message["headers"].append(_NOT_FRAMED)
                self._metrics.answered(
                    route, method, message["status"], seconds, inner["error_code"]
                )
                self._access.answered(
                    *(route, method, message["status"], seconds, request_id),
                    *(inner["policy_version"], inner["error_code"], trace),
                )
                inner["status"] = message["status"]
            await send(message)

        try:
            await self._app(inner, receive, send_stamped)
        finally:
            if trace is not None:
                version, error = inner["policy_version"], inner["error_code"]
                trace.end(inner.get("status"), request_id, version, error)


class Cors:
    """Cross-origin requests, allowed to the origins that the settings name."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        """Let pages of those origins use `app`."""
        self._app = app
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take other origins."""
        self._cors = _Cors(
            self._app,
            allow_origins=settings.cors_origins,
            allow_credentials=settings.cors_credentials,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
            expose_headers=("X-Request-ID", "X-Process-Time", "Retry-After"),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._cors(scope, receive, send)


class _Cors(CORSMiddleware):
    """Starlette's CORS, with its refusals written as our errors."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        allowed = {
            name: value
            for name, value in response.headers.items()
            if name not in ("content-length", "content-type")
        }
        request_id = request_headers["x-request-id"]
        message = bytes(response.body).decode()
        return error_response(
            response.status_code, "HTTP_ERROR", message, request_id, headers=allowed
        )


class Errors:
    """Turns whatever is raised further in into an answer; asks at the doors first."""

    def __init__(self, app: ASGIApp, doors: Doors) -> None:
        """Let in whom `doors` let in."""
        self._app = app
        self._doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            self._doors.enter(scope)
            await self._app(scope, receive, send_noting)
        except ClientDisconnect:
            return
        except Exception as error:
            if started:
                raise
            response = await on_error(Request(scope), error)
            await response(scope, receive, send)


def trace_headers(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Pick W3C's trace headers; one that comes several times is joined, as its rules say."""
    found: dict[str, str] = {}
    for name, value in pairs:
        key = name.lower()
        if key in ("traceparent", "tracestate"):
            found[key] = f"{found[key]},{value}" if key in found else value
    return found


def request_id_of(scope: Scope) -> str:
    """Give the caller's own id where it sent a sane one, else one that is drawn."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            if SANE_ID.fullmatch(value):
                return str(value, "ascii")
            break
    return os.urandom(16).hex()
