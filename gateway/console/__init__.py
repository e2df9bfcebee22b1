"""The console: a page that drives the example track through this gateway, and what it is made of.

The files lie beside this module, need no build and hold no secret; what they ask the gateway for
needs a key where others need one. `track.js` is `examples/track.py`, step for step.
"""

from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

_FOLDER = Path(__file__).parent
_FILES = {
    "/console": "index.html",
    **{
        f"/console/{path.name}": path.name
        for path in sorted(_FOLDER.iterdir())
        if path.suffix in (".css", ".js", ".svg")
    },
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
}

CONSOLE = frozenset(_FILES)
"""The paths that the console's files have."""


def add_console(app: FastAPI) -> None:
    """Serve the page at `/console` and its files below that."""
    files = StaticFiles(directory=_FOLDER)

    async def serve(request: Request) -> Response:
        response = await files.get_response(_FILES[request.scope["path"]], request.scope)
        response.headers.update(_HEADERS)
        return response

    for path in _FILES:
        app.add_route(path, serve, include_in_schema=False)
