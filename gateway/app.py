"""Putting the gateway together."""

import asyncio
import gc
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import openapi, schema
from gateway.cache import Cache
from gateway.endpoints import Endpoints
from gateway.errors import on_error
from gateway.fast import FastPredict
from gateway.joining import Joiner
from gateway.keys import Keys
from gateway.metrics import Metrics
from gateway.middleware import Arrival, Cors, Errors
from gateway.predict import Predictor
from gateway.settings import Settings
from gateway.stopping import Stopping
from gateway.triton import Triton
from gateway.versions import Versions

VERSION = "0.1.0"


def create_app(settings: Settings, triton: Triton | None = None) -> "Application":
    """Build the application; it talks to `triton`, or to the one that the settings name.

    A request passes `Arrival`, then FastAPI; a usual prediction is answered before both.

    Raises SettingsError where the file of API keys cannot be used.
    """
    triton = triton or Triton(settings.triton_endpoint)
    keys = Keys.read(settings.api_keys_file) if settings.api_keys_file else None
    metrics = Metrics()
    versions = Versions(triton, settings.model_version, metrics)
    joiner = Joiner(triton, metrics, settings.calls_in_flight, settings.max_waiting)
    cache = Cache(settings.cache_bytes, metrics) if settings.cache_bytes else None
    predictor = Predictor(joiner, versions, metrics, cache)
    git = settings.git_commit or _git_commit()
    stopping = Stopping(settings.shutdown_notice_s)
    endpoints = Endpoints(settings, triton, versions, predictor, metrics, stopping, git)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        _collect_seldom()
        stopping.listen()
        following = asyncio.create_task(versions.follow())
        yield
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        await joiner.close()
        await triton.close()
        metrics.close()

    app = _Gateway(
        api_keys=keys is not None,
        **openapi.INFO,
        version=VERSION,
        lifespan=lifespan,
        redirect_slashes=False,
        exception_handlers={HTTPException: on_error, RequestValidationError: on_error},
        middleware=[
            Middleware(
                Cors,
                allow_origins=settings.cors_origins,
                allow_methods=("GET", "HEAD", "POST"),
                allow_headers=("*",),
                expose_headers=("X-Request-ID", "X-Process-Time", "Retry-After"),
            ),
            Middleware(Errors, keys=keys),
        ],
    )
    _add_routes(app, endpoints)
    paths = {route.path for route in app.routes if hasattr(route, "path")}
    return Application(
        Arrival(app, metrics, paths, stopping),
        FastPredict(settings, keys, versions, predictor, metrics, stopping),
    )


class Application:
    """The ASGI application, and the fast way that `protocol.Protocol` takes around it."""

    def __init__(self, app: ASGIApp, fast: FastPredict) -> None:
        """Take both ways."""
        self._app = app
        self.fast = fast

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request by the framework."""
        await self._app(scope, receive, send)


class _Gateway(FastAPI):
    """FastAPI whose document knows the bodies that the routes read by themselves."""

    def __init__(self, *, api_keys: bool, **options: Any) -> None:
        super().__init__(**options)
        self._api_keys = api_keys
        self._document: dict[str, Any] | None = None

    def openapi(self) -> dict[str, Any]:
        if self._document is None:
            self._document = openapi.complete(super().openapi(), self._api_keys)
        return self._document


def _add_routes(app: FastAPI, endpoints: Endpoints) -> None:
    app.add_api_route(
        "/predict",
        endpoints.predict,
        methods=["POST"],
        tags=["policy"],
        response_model=schema.PredictAnswer,
        responses=openapi.error_responses(openapi.PREDICT_ERRORS),
        openapi_extra=openapi.request_body(schema.PredictRequest, required=True),
    )
    app.add_api_route(
        "/warmup",
        endpoints.warmup,
        methods=["POST"],
        tags=["policy"],
        response_model=schema.WarmupAnswer,
        responses=openapi.error_responses(openapi.WARMUP_ERRORS),
        openapi_extra=openapi.request_body(schema.WarmupRequest, required=False),
    )
    app.add_api_route(
        "/metadata",
        endpoints.metadata,
        tags=["policy"],
        response_model=schema.MetadataAnswer,
        responses=openapi.error_responses(openapi.METADATA_ERRORS),
    )
    app.add_api_route(
        "/versions",
        endpoints.versions,
        tags=["policy"],
        response_model=schema.VersionsAnswer,
        responses=openapi.error_responses(openapi.VERSIONS_ERRORS),
    )
    app.add_api_route(
        "/healthz",
        endpoints.healthz,
        tags=["operation"],
        response_model=schema.HealthAnswer,
        responses=openapi.error_responses(()),
    )
    app.add_api_route(
        "/livez",
        endpoints.livez,
        tags=["operation"],
        response_model=schema.LiveAnswer,
        responses=openapi.error_responses(()),
    )
    app.add_api_route(
        "/readyz",
        endpoints.readyz,
        tags=["operation"],
        response_model=schema.ReadyAnswer,
        responses=openapi.error_responses(openapi.METADATA_ERRORS[1:]),
    )
    app.add_api_route(
        "/metrics",
        endpoints.metrics,
        tags=["operation"],
        response_class=PlainTextResponse,
        responses=openapi.error_responses(()),
    )


def _collect_seldom() -> None:
    """Look for cycles seldom: requests leave none, and each look takes in all that is under way.

    With 2,000 connections that never rest this is a fifth of the answers.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _git_commit() -> str:
    root = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(root), "rev-parse", "--show-toplevel", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        top, commit = done.stdout.split("\n")[:2]
    except (OSError, subprocess.SubprocessError, ValueError):
        return "unknown"
    # Another project's checkout may hold the environment that this package is installed in.
    return commit if Path(top) == root else "unknown"
