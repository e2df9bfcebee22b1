"""Cross-origin requests: which pages may read the gateway's answers."""

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.config.live import LiveSettings

EXPOSED = ("X-Request-ID", "X-Process-Time", "X-Carlarl-Echo", "Retry-After")
"""Headers of an answer that a page may read."""

_Pair = tuple[bytes, bytes]
_VARY = (b"vary", b"Origin")
_NOT_ALLOWED = [_VARY]


class Cors:
    """Makes the CORS headers of every answer, and answers preflight requests."""

    def __init__(self, live: LiveSettings) -> None:
        self._live = live
        self._read_settings()

    def _read_settings(self) -> None:
        self._settings = settings = self._live.now
        self._preflight = CORSMiddleware(
            _unreachable,
            allow_origins=settings.cors_origins,
            allow_credentials=settings.cors_credentials,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
        )
        self._all = "*" in settings.cors_origins
        self._origins = frozenset(origin.encode() for origin in settings.cors_origins)
        self._read: list[_Pair] = [(b"access-control-expose-headers", ", ".join(EXPOSED).encode())]
        if settings.cors_credentials:
            self._read.append((b"access-control-allow-credentials", b"true"))

    def headers(self, asked: Mapping[bytes, bytes]) -> list[_Pair]:
        """Return the CORS headers of the answer to a request with the headers `asked`."""
        if self._settings is not self._live.now:
            self._read_settings()
        origin = asked.get(b"origin")
        if origin is None or not (self._all or origin in self._origins):
            return _NOT_ALLOWED
        if self._all and b"cookie" not in asked:
            origin = b"*"
        return [(b"access-control-allow-origin", origin), _VARY, *self._read]

    def preflight(self, asked: Headers) -> Response:
        """Answer a preflight request, without the headers that `headers` returns."""
        response = self._preflight.preflight_response(request_headers=asked)
        for name in ("access-control-allow-origin", "access-control-allow-credentials", "vary"):
            del response.headers[name]
        return response


async def _unreachable(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("preflight requests are answered without an application")
