"""The routes that FastAPI serves: each decodes, awaits one call and encodes."""

import time
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gateway.api import asyncapi, codec
from gateway.api.errors import ServiceUnavailable
from gateway.api.problems import JSON
from gateway.api.request_head import RequestHead
from gateway.http.body import read_body
from gateway.http.graceful_shutdown import GracefulShutdown
from gateway.inference import damaged
from gateway.inference.policy_version import PolicyVersion
from gateway.inference.service import Service
from gateway.observability.metrics import CONTENT_TYPE
from gateway.triton.client import Triton
from policy_spec.control import Control
from policy_spec.images import channels_of
from policy_spec.leaves import Leaf
from policy_spec.spaces import to_data
from policy_spec.validate import takes_images


class Routes:
    """The routes of one gateway; `git` is the commit that `/healthz` names."""

    def __init__(
        self, service: Service, triton: Triton, stopping: GracefulShutdown, git: str
    ) -> None:
        self._service = service
        self._versions = service.versions
        self._triton = triton
        self._stopping = stopping
        self._git = git

    async def root(self, _: Request) -> Response:
        """Lead to the console, or to the documentation where the console is closed."""
        settings = self._service.live.now
        if settings.console_access == settings.docs_access == "closed":
            raise HTTPException(404)
        return RedirectResponse("/docs" if settings.console_access == "closed" else "/console")

    async def predict(self, _: Request) -> Response:
        """Return one action for each observation; `HttpConnection` answers this, not FastAPI."""
        raise AssertionError("`http.connection` answers it")

    async def healthz(self, _: Request) -> Response:
        """Return whether the gateway can act; the status is 200 in either case."""
        active = self._versions.active
        return _json(
            {
                "status": "ok" if self._versions.ready and not self._stopping.begun else "degraded",
                "version": active and active.version,
                "git": self._git,
                "device": active and active.device,
                "timestamp": time.time(),
            }
        )

    async def livez(self, _: Request) -> Response:
        """Return that the process runs."""
        return _json({"status": "alive"})

    async def readyz(self, _: Request) -> Response:
        """Return 200 if the active version has answered its golden inference, else 503."""
        if self._stopping.begun:
            raise ServiceUnavailable("the gateway is stopping")
        active = self._versions.active
        if active is None or not self._versions.ready:
            trouble = self._versions.trouble
            why = f": {trouble}" if trouble else ""
            raise ServiceUnavailable(f"the active policy version is not ready{why}")
        return _json({"status": "ready", "version": active.version})

    async def metadata(self, _: Request) -> Response:
        """Describe the active version."""
        policy = await self._versions.resolve(None)
        signature = policy.signature
        control = signature.control
        sensors = signature.sensors if signature.is_driving_form else None
        return _json(
            {
                "modelName": policy.model_card["model_name"],
                "version": policy.version,
                "device": policy.device,
                "observationSpace": to_data(signature.observation_space),
                "policyActionSpace": to_data(signature.action_space),
                "control": control and control.to_data(),
                "repeat": signature.repeat,
                "stateful": signature.stateful,
                "exampleObservation": policy.codec.example,
                "images": [
                    _image(leaf) for leaf in signature.layout.apart if takes_images(leaf.space)
                ],
                "inputShape": sensors and [-1, 2 + sensors],
                "actionSpace": control and _action_space(control),
                "sensors": sensors,
                "formats": policy.formats,
                "format": policy.format,
                "artifactDigest": policy.artifact_digest,
                "modelCard": policy.model_card,
                "certificate": policy.certificate,
                "maxBatchSize": policy.max_batch_size,
            }
        )

    async def versions(self, _: Request) -> Response:
        """List the versions that Triton serves and those that it holds, oldest first."""
        served, held = await self._versions.served()
        faults = damaged.told()
        active = self._versions.active
        name = active.version if active else None
        versions = [_summary(policy, name) for policy in served]
        return _json(
            {
                "active": name,
                "versions": versions,
                "held": [version for version in held if version not in faults],
                "damaged": faults,
            }
        )

    async def warmup(self, request: Request) -> Response:
        """Run the active version at several batch sizes."""
        settings = self._service.live.now
        head: RequestHead = request.scope["head"]
        arrived: float = request.scope["exchange"].arrived
        deadline = arrived + min(head.deadline_s(), settings.request_timeout_ms / 1000)
        max_bytes = self._service.max_body_bytes
        form = head.body_format(max_bytes)
        body = await read_body(request, max_bytes, deadline)
        codec.check_warmup(body, form)
        policy = await self._versions.resolve(None)
        await policy.warm_up(self._triton, deadline)
        return _json(
            {
                "status": "warmed",
                "version": policy.version,
                "timingMs": _milliseconds_since(arrived),
                "device": policy.device,
            }
        )

    async def asyncapi(self, request: Request) -> Response:
        """Describe the stream, as `/openapi.json` describes the routes."""
        version = request.app.version
        active = self._service.versions.active
        keyed = self._service.access_control.keys is not None
        return _json(asyncapi.document(version, keyed, active.signature if active else None))

    async def stream(self, _: Request) -> Response:
        """Refuse a plain request; upgrades do not come here."""
        raise HTTPException(426, "/stream speaks WebSocket", {"Upgrade": "websocket"})

    async def metrics(self, _: Request) -> Response:
        """Write Prometheus' text format."""
        return Response(await self._service.observers.metrics.exposition(), media_type=CONTENT_TYPE)


def _action_space(control: Control) -> dict[str, Any]:
    """Describe the control: names and bounds in order, and each name with its bounds."""
    low, high = zip(*control.ranges.values(), strict=True)
    return {"names": control.names, "low": low, "high": high, **control.ranges}


def _image(leaf: Leaf) -> dict[str, Any]:
    """Describe a leaf that may be sent as an encoded image."""
    height, width = leaf.space.shape[:2]
    channels = channels_of(leaf.space)
    return {"leaf": ".".join(leaf.path), "width": width, "height": height, "channels": channels}


def _summary(policy: PolicyVersion, active: str | None) -> dict[str, Any]:
    return {
        "version": policy.version,
        "active": policy.version == active,
        "formats": policy.formats,
        "artifactDigest": policy.artifact_digest,
        "description": policy.model_card.get("description") or "",
        "performanceMetrics": policy.model_card.get("performance_metrics") or {},
    }


def _milliseconds_since(arrived: float) -> float:
    return round((time.perf_counter() - arrived) * 1000, 3)


def _json(content: dict[str, Any]) -> Response:
    return Response(codec.encode[JSON](content), media_type=JSON)
