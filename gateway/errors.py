"""Every error that a caller can see, and the one handler that writes it."""

import logging
import time
from collections.abc import Mapping
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
    envelope = {
        "error": code,
        "message": message,
        "details": {"request_id": request_id, **(details or {})},
        "timestamp": time.time(),
    }
    return Response(to_json(envelope), status, headers, "application/json")


async def on_error(request: Request, error: Exception) -> Response:
    """Answer any exception, as the framework asks for it."""
    return answer_to(request, error)


def answer_to(request: Request, error: Exception) -> Response:
    """Answer any exception; one that nobody foresaw goes to the log with its trace."""
    request_id = request.scope["request_id"]
    if isinstance(error, RequestValidationError):
        error = ValidationFailed.of(error.errors())
    if isinstance(error, GatewayError):
        request.scope["error_code"] = error.code
        return error_response(
            error.status,
            error.code,
            error.message,
            request_id,
            details=error.details,
            headers=error.headers,
        )
    if isinstance(error, HTTPException):
        request.scope["error_code"] = "HTTP_ERROR"
        headers = dict(error.headers or {})
        if headers.get("Allow") == "GET":
            headers["Allow"] = "GET, HEAD"
        return error_response(
            error.status_code, "HTTP_ERROR", str(error.detail), request_id, headers=headers
        )
    told = {"request_id": request_id}
    log.error("request %s failed", request_id, exc_info=error, extra=told)
    request.scope["error_code"] = "INTERNAL_ERROR"
    return error_response(500, "INTERNAL_ERROR", "internal error", request_id)
