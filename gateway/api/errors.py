"""Every error that a caller can see, and what the caller gets for it."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from starlette.exceptions import HTTPException

RETRY_AFTER_S = 1
MAX_PROBLEM_CHARS = 200
"""How much an error repeats of what a caller sent."""

log = logging.getLogger(__name__)


class GatewayError(Exception):
    """Base of the errors that callers see: a code, an HTTP status, a message and details.

    `message` is what the caller reads; further arguments are added to the details.
    """

    code: ClassVar[str]
    status: ClassVar[int]
    headers: Mapping[str, str] = {}

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class ValidationFailed(GatewayError):
    """The body is not JSON, or a field is not what it must be."""

    code = "VALIDATION_ERROR"
    status = 422

    def __init__(self, problems: list[dict[str, str]]) -> None:
        """Take `{field, message, type}` for each problem, the first one at least."""
        listed = [
            {name: value[:MAX_PROBLEM_CHARS] for name, value in one.items()} for one in problems
        ]
        first = listed[0]
        more = f" (and {len(listed) - 1} more)" if len(listed) > 1 else ""
        super().__init__(f"{first['field']}: {first['message']}{more}", validation_errors=listed)


class Unsupported(GatewayError):
    """The policy can't do that, like being sampled where it has no noise."""

    code = "UNSUPPORTED"
    status = 422


class UnsupportedMediaType(GatewayError):
    """The body has another format than JSON or msgpack."""

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


class StateMismatch(GatewayError):
    """A state is no token of this service, or not of the policy that is to go on with it."""

    code = "STATE_MISMATCH"
    status = 409


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


class ImagesRefused(InferenceFailed):
    """A model can't decode the images of some rows of a call; the other rows were not computed.

    `problems` has the row, the path of the leaf and the reason of each.
    """

    def __init__(self, problems: Sequence[tuple[int, Sequence[str], str]]) -> None:
        super().__init__("images can't be decoded")
        self.problems = problems

    def of(self, start: int, count: int) -> "ImagesRefused | None":
        """Return the problems of `count` rows from `start` on, as if these were all."""
        found = [
            (row - start, path, why)
            for row, path, why in self.problems
            if start <= row < start + count
        ]
        return ImagesRefused(found) if found else None

    def told(self, places: Sequence[str]) -> ValidationFailed:
        """Return what the caller gets, given the path of each row in its request."""
        return ValidationFailed(
            [
                {"field": ".".join((places[row], *path)), "message": why, "type": "image_invalid"}
                for row, path, why in self.problems
            ]
        )


class ServiceUnavailable(GatewayError):
    """Triton is away or not ready."""

    code = "SERVICE_UNAVAILABLE"
    status = 503
    headers = {"Retry-After": str(RETRY_AFTER_S)}


class TritonAway(ServiceUnavailable):
    """Nobody answers where Triton is said to be."""


class Distrusted(ServiceUnavailable):
    """A model answered with another call's reply, or Triton calls its process unhealthy."""

    def __init__(self, message: str, reason: str) -> None:
        """Take what the caller reads, and `stale` or `unhealthy`."""
        super().__init__(message)
        self.reason = reason


class DeadlineExceeded(GatewayError):
    """No answer within the deadline."""

    code = "DEADLINE_EXCEEDED"
    status = 504


CODES = frozenset(
    {"HTTP_ERROR", "INTERNAL_ERROR", *(error.code for error in GatewayError.__subclasses__())}
)
"""Every code that a caller can be told."""


@dataclass(frozen=True, slots=True)
class ErrorPayload:
    """What a caller gets for an error; `envelope` is the body."""

    status: int
    headers: Mapping[str, str]
    code: str
    envelope: dict[str, Any]


def payload_of(error: Exception, request_id: str) -> ErrorPayload:
    """Return what the caller gets for `error`; an unexpected error is logged with its traceback."""
    if isinstance(error, GatewayError):
        envelope = _envelope(error.code, error.message, request_id, error.details)
        return ErrorPayload(error.status, error.headers, error.code, envelope)
    if isinstance(error, HTTPException):
        headers = dict(error.headers or {})
        if headers.get("Allow") == "GET":
            headers["Allow"] = "GET, HEAD"
        envelope = _envelope("HTTP_ERROR", str(error.detail), request_id, {})
        return ErrorPayload(error.status_code, headers, "HTTP_ERROR", envelope)
    log.error("request %s failed", request_id, exc_info=error, extra={"request_id": request_id})
    envelope = _envelope("INTERNAL_ERROR", "internal error", request_id, {})
    return ErrorPayload(500, {}, "INTERNAL_ERROR", envelope)


def _envelope(
    code: str, message: str, request_id: str, details: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "error": code,
        "message": message,
        "details": {"request_id": request_id, **details},
        "timestamp": time.time(),
    }
