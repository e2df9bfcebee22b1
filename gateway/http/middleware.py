"""The layers around the application: every request but `POST /predict` passes them."""

import time
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api import codec
from gateway.api.errors import payload_of
from gateway.api.paths import DOCS, METRICS, PROBES
from gateway.api.problems import JSON
from gateway.api.request_head import RequestHead
from gateway.http.docs import CONTENT_SECURITY_POLICY
from gateway.http.edge import Edge
from gateway.observability.exchange import Exchange
from gateway.security.access_control import AccessControl

_PREFLIGHT = {b"origin", b"access-control-request-method"}
_DOCS_POLICY = (b"content-security-policy", CONTENT_SECURITY_POLICY.encode())


class Arrival:
    """Begins and ends the exchange of a request; it is the outermost layer.

    It sets `exchange` and `head` in the scope. HEAD is served as GET; uvicorn leaves the body out.
    Connections find in `edge` what they answer without the application.
    """

    def __init__(self, app: ASGIApp, edge: Edge, paths: Collection[str]) -> None:
        """Count a request under its path where `paths` has it, else under "unmatched"."""
        self._app = app
        self.edge = edge
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arrived = time.perf_counter()
        head = RequestHead(scope["headers"])
        path, method = scope["path"], scope["method"]
        route = path if path in self._paths else "unmatched"
        exchange = Exchange(self.edge.observers, route, method, arrived, head.request_id)
        if path not in PROBES and path not in METRICS:
            exchange.start_trace(head.trace_context)
        inner = {
            **scope,
            "method": "GET" if method == "HEAD" else method,
            "head": head,
            "exchange": exchange,
            "error_code": None,
        }

        async def send_stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                seconds = exchange.answer(message["status"], inner["error_code"])
                stamps = self.edge.stamps(head, exchange.request_id, seconds)
                message["headers"] = [*message.get("headers", ()), *stamps]
                if self.edge.stopping.begun:
                    message["headers"].append((b"connection", b"close"))
                if path in DOCS:
                    message["headers"].append(_DOCS_POLICY)
            await send(message)

        try:
            app: ASGIApp = self._app
            if method == "OPTIONS" and head.found.keys() >= _PREFLIGHT:
                app = self._preflight(inner)
            await app(inner, receive, send_stamped)
        finally:
            exchange.abandon()

    def _preflight(self, scope: Scope) -> Response:
        response = self.edge.cors.preflight(Headers(scope=scope))
        if response.status_code == 200:
            return response
        error = HTTPException(response.status_code, bytes(response.body).decode())
        return answer_to(scope, error)


class Errors:
    """Asks the access control, and answers what the application raises."""

    def __init__(self, app: ASGIApp, access_control: AccessControl) -> None:
        """Let in the callers that `access_control` lets in."""
        self._app = app
        self._access_control = access_control

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
            self._access_control.enter(scope["path"], scope["head"].found, scope["client"])
            await self._app(scope, receive, send_noting)
        except ClientDisconnect:
            return
        except Exception as error:
            if started:
                raise
            await answer_to(scope, error)(scope, receive, send)


def answer_to(scope: Scope, error: Exception) -> Response:
    """Answer any exception, and note its code in the scope."""
    payload = payload_of(error, scope["exchange"].request_id)
    scope["error_code"] = payload.code
    body = codec.encode[JSON](payload.envelope)
    return Response(body, payload.status, payload.headers, JSON)
