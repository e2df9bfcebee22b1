"""Every error that a caller can see, and the one handler that writes it."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

RETRY_AFTER_S = 1
MAX_LISTED = 100
MAX_FIELD_CHARS = 200

log = logging.getLogger(__name__)


class GatewayError(Exception):
    """Base of the errors that callers see: a code, an HTTP status, a message and details."""

    code: ClassVar[str]
    status: ClassVar[int]
    headers: Mapping[str, str] = {}

    def __init__(self, message: str, **details: Any) -> None:
        """Take what the caller reads, and what is added to `details`."""
        super().__init__(message)
        self.message = message
        self.details = details


class ValidationFailed(GatewayError):
    """The body is not JSON, or a field is not what it must be."""

    code = "VALIDATION_ERROR"
    status = 422

    def __init__(self, problems: list[dict[str, str]]) -> None:
        """Take `{field, message, type}` for each problem; the first hundred are listed."""
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(
            f"{first['field']}: {first['message']}{more}",
            validation_errors=problems[:MAX_LISTED],
        )

    @classmethod
    def of(cls, errors: Any) -> "ValidationFailed":
        """Make one from pydantic's list of errors."""
        return cls(
            [
                {
                    "field": ".".join(map(str, error["loc"]))[:MAX_FIELD_CHARS] or "body",
                    "message": error["msg"],
                    "type": error["type"],
                }
                for error in errors
            ]
        )


class UnsupportedMediaType(GatewayError):
    """The body says that it is something other than JSON."""

    code = "UNSUPPORTED_MEDIA_TYPE"
    status = 415


class PayloadTooLarge(GatewayError):
    """The body is over the limit."""

    code = "PAYLOAD_TOO_LARGE"
    status = 413


class Unauthorized(GatewayError):
    """An API key is configured and the right one is not there."""

    code = "UNAUTHORIZED"
    status = 401
    headers = {"WWW-Authenticate": "Bearer"}


class ModelNotFound(GatewayError):
    """Triton serves no such policy version."""

    code = "MODEL_NOT_FOUND"
    status = 404


class ResourceExhausted(GatewayError):
    """Too much waits already, or this caller sends too much."""

    code = "RESOURCE_EXHAUSTED"
    status = 429
    headers = {"Retry-After": str(RETRY_AFTER_S)}


class RateExceeded(ResourceExhausted):
    """One caller sends more than it may."""


class InferenceFailed(GatewayError):
    """Triton answered with an error, or with something that is no action."""

    code = "INFERENCE_ERROR"
    status = 502


class ServiceUnavailable(GatewayError):
    """Triton is away or not ready."""

    code = "SERVICE_UNAVAILABLE"
    status = 503
    headers = {"Retry-After": str(RETRY_AFTER_S)}


class TritonAway(ServiceUnavailable):
    """Nobody answers where Triton is said to be."""


class DeadlineExceeded(GatewayError):
    """No answer within the deadline."""

    code = "DEADLINE_EXCEEDED"
    status = 504


@dataclass(frozen=True, slots=True)
class Told:
    """What a caller is told of an error: its status, headers, code and envelope."""

    status: int
    headers: Mapping[str, str]
    code: str
    envelope: dict[str, Any]


def error_response(
    status: int,
    code: str,
    message: str,
    request_id: str,
    *,
    details: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Write the envelope that every error has."""
    envelope = _envelope(code, message, request_id, details or {})
    return Response(to_json(envelope), status, headers, "application/json")


async def on_error(request: Request, error: Exception) -> Response:
    """Answer any exception, as the framework asks for it."""
    return answer_to(request, error)


def answer_to(request: Request, error: Exception) -> Response:
    """Answer any exception by HTTP."""
    told = tell(error, request.scope["request_id"])
    request.scope["error_code"] = told.code
    return Response(to_json(told.envelope), told.status, told.headers, "application/json")


def tell(error: Exception, request_id: str) -> Told:
    """Say what a caller is told; what nobody foresaw goes to the log with its trace."""
    if isinstance(error, RequestValidationError):
        error = ValidationFailed.of(error.errors())
    if isinstance(error, GatewayError):
        envelope = _envelope(error.code, error.message, request_id, error.details)
        return Told(error.status, error.headers, error.code, envelope)
    if isinstance(error, HTTPException):
        headers = dict(error.headers or {})
        if headers.get("Allow") == "GET":
            headers["Allow"] = "GET, HEAD"
        envelope = _envelope("HTTP_ERROR", str(error.detail), request_id, {})
        return Told(error.status_code, headers, "HTTP_ERROR", envelope)
    named = {"request_id": request_id}
    log.error("request %s failed", request_id, exc_info=error, extra=named)
    envelope = _envelope("INTERNAL_ERROR", "internal error", request_id, {})
    return Told(500, {}, "INTERNAL_ERROR", envelope)


def _envelope(
    code: str, message: str, request_id: str, details: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "error": code,
        "message": message,
        "details": {"request_id": request_id, **details},
        "timestamp": time.time(),
    }
