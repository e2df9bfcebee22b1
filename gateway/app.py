"""The application factory: it builds the parts of the gateway and connects them."""

import asyncio
import gc
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from gateway.api import messages, openapi, schema
from gateway.api.paths import PREDICT, ROOT, STREAM
from gateway.config.live import LiveSettings
from gateway.config.settings import Settings
from gateway.console import add_console
from gateway.http.docs import add_docs
from gateway.http.edge import Edge
from gateway.http.graceful_shutdown import GracefulShutdown
from gateway.http.middleware import Arrival, Errors, answer_to
from gateway.http.routes import Routes
from gateway.inference.batcher import Batcher
from gateway.inference.predictor import Predictor
from gateway.inference.registry import Registry
from gateway.inference.service import Service
from gateway.observability import log_config as logs
from gateway.observability.access_log import AccessLog
from gateway.observability.exchange import Observers
from gateway.observability.metrics import Metrics
from gateway.observability.otlp import traces_url
from gateway.reload import Configuration, read_keys
from gateway.security.access_control import AccessControl
from gateway.security.api_keys import Keys
from gateway.security.state_tokens import StateTokens, kept_secret
from gateway.triton.client import Triton
from policy_spec.signature import Signature

if TYPE_CHECKING:
    from gateway.observability.tracing import Tracing

VERSION = "0.1.0"


def create_app(settings: Settings, triton: Triton | None = None) -> Arrival:
    """Build the application; it talks to `triton`, or to the one that the settings name.

    `HttpConnection` answers `POST /predict` itself; other requests pass `Arrival`, then FastAPI.
    The application follows the configuration file and the file of API keys.
    """
    triton = triton or Triton(settings.triton_endpoint, settings.triton_token)
    keys = read_keys(settings)
    live = LiveSettings(settings)
    access_control = AccessControl(live, keys)
    metrics = Metrics()
    versions = Registry(triton, settings.model_version, metrics)
    traces = _traces()
    batcher = Batcher(triton, metrics, settings.calls_in_flight, settings.max_waiting, traces)
    metrics.watch(lambda: batcher.waiting, lambda: triton.reconnects)
    predictor = Predictor(batcher, versions, metrics, live)
    git = settings.git_commit or _git_commit()
    stopping = GracefulShutdown(settings.shutdown_notice_s)
    observers = Observers(metrics, AccessLog(live), traces)
    tokens = StateTokens(settings.state_keys or [kept_secret()])
    service = Service(live, access_control, versions, predictor, observers, tokens)
    edge = Edge(service, stopping)
    endpoints = Routes(service, triton, stopping, git)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        _collect_seldom()
        stopping.listen()
        configuration.start()
        following = [
            asyncio.create_task(one.follow()) for one in (versions, configuration, metrics)
        ]
        yield
        for task in following:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        batcher.close()
        await triton.close()
        if traces is not None:
            await traces.close()
        metrics.flush()

    app = _Gateway(
        **openapi.INFO,
        version=VERSION,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        exception_handlers={HTTPException: _on_error},
        middleware=[Middleware(Errors, access_control=access_control)],
    )
    app.versions = versions
    app.describe(keys)
    _add_routes(app, endpoints)
    add_docs(app)
    add_console(app)

    def apply(settings: Settings, keys: Keys | None) -> None:
        live.now = settings
        access_control.keys = keys
        batcher.limit(settings.calls_in_flight, settings.max_waiting)
        app.describe(keys)
        logs.configure(settings)

    configuration = Configuration(settings, keys, apply)
    paths = {route.path for route in app.routes if hasattr(route, "path")}
    return Arrival(app, edge, paths)


class _Gateway(FastAPI):
    """FastAPI whose document has the bodies that the routes decode by themselves."""

    versions: Registry
    """What says which version is active."""
    _api_keys = False
    _signature: Signature | None = None

    def describe(self, keys: Keys | None) -> None:
        """Write in the document whether the gateway asks for keys."""
        self._api_keys = keys is not None
        self.openapi_schema = None

    def openapi(self) -> dict[str, Any]:
        active = self.versions.active
        signature = active.signature if active else None
        if self.openapi_schema is None or signature != self._signature:
            self.openapi_schema, self._signature = None, signature
            document = super().openapi()
            self.openapi_schema = openapi.complete(document, self._api_keys, signature)
        return self.openapi_schema


def _add_routes(app: FastAPI, endpoints: Routes) -> None:
    app.add_api_route(
        PREDICT,
        endpoints.predict,
        methods=["POST"],
        tags=["policy"],
        responses=openapi.answer(messages.PredictAnswer, "The actions.")
        | openapi.error_responses(openapi.PREDICT_ERRORS),
        openapi_extra=openapi.request_body(openapi.REQUEST, required=True),
    )
    app.add_api_route(
        "/warmup",
        endpoints.warmup,
        methods=["POST"],
        tags=["policy"],
        response_model=schema.WarmupAnswer,
        responses=openapi.error_responses(openapi.WARMUP_ERRORS),
        openapi_extra=openapi.request_body(messages.WarmupRequest, required=False),
    )
    for path, endpoint, tag, model, errors in (
        ("/metadata", endpoints.metadata, "policy", schema.MetadataAnswer, openapi.METADATA_ERRORS),
        ("/versions", endpoints.versions, "policy", schema.VersionsAnswer, openapi.VERSIONS_ERRORS),
        ("/healthz", endpoints.healthz, "operation", schema.HealthAnswer, ()),
        ("/livez", endpoints.livez, "operation", schema.LiveAnswer, ()),
        ("/readyz", endpoints.readyz, "operation", schema.ReadyAnswer, openapi.READY_ERRORS),
    ):
        app.add_api_route(
            path,
            endpoint,
            tags=[tag],
            response_model=model,
            responses=openapi.error_responses(errors),
        )
    app.add_api_route(
        "/metrics",
        endpoints.metrics,
        tags=["operation"],
        response_class=PlainTextResponse,
        responses=openapi.error_responses(()),
    )
    app.add_api_route(ROOT, endpoints.root, include_in_schema=False)
    app.add_api_route("/asyncapi.json", endpoints.asyncapi, include_in_schema=False)
    app.add_api_route(STREAM, endpoints.stream, include_in_schema=False)


async def _on_error(request: Request, error: Exception) -> Response:
    """Answer an HTTPException; FastAPI calls this."""
    return answer_to(request.scope, error)


def _traces() -> "Tracing | None":
    """Import OpenTelemetry only where traces are sent."""
    if traces_url() is None:
        return None
    from gateway.observability.tracing import Tracing

    return Tracing()


def _collect_seldom() -> None:
    """Collect garbage seldom: requests leave no cycles, and each collection visits all objects.

    With 2,000 busy connections the default settings cost a fifth of the throughput.
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
