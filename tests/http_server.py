"""The HTTP server of the tests' own services."""

import sys
from http.server import ThreadingHTTPServer
from typing import Any


class HttpServer(ThreadingHTTPServer):
    """Says nothing of a caller that has gone.

    To print a traceback, Python 3.11 parses code; up to 3.11.7 that breaks `ast.parse` in another
    thread (python/cpython#106905).
    """

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)
