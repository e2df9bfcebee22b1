"""Every way in which a call can fail; each carries a code, a message and the request's id."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Mapping

KNOWN = ("code", "request_id", "status", "details", "retry_after_s", "unsent")


class PolicyError(Exception):
    """Base of all errors; itself where the service's code is one that this client does not know.

    Attributes:
        code: the API's, such as `MODEL_NOT_FOUND`, or one of the client's own.
        message: what went wrong, in a sentence.
        request_id: by which the service's log knows the request; None where none was sent.
        status: the HTTP status; None where no answer came.
        details: whatever else the service said.
        retry_after_s: seconds that the service asks to wait; None where it does not say.
        unsent: whether nothing can have reached the service.
    """

    default_code: ClassVar[str] = "INTERNAL_ERROR"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        request_id: str | None = None,
        status: int | None = None,
        details: Mapping[str, Any] | None = None,
        retry_after_s: float | None = None,
        unsent: bool = False,
    ) -> None:
        """Take what is known of it; see the attributes."""
        self.code = code or self.default_code
        self.message = message
        self.request_id = request_id
        self.status = status
        self.details: Mapping[str, Any] = details or {}
        self.retry_after_s = retry_after_s
        self.unsent = unsent
        known = "" if request_id is None else f" (request {request_id})"
        super().__init__(f"{self.code}: {message}{known}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it with all that is known of it."""
        known = {name: value for name, value in vars(self).items() if name in KNOWN}
        return partial(type(self), **known), (self.message,)

    @property
    def outage(self) -> bool:
        """Whether the service failed and may recover, rather than that the request is wrong."""
        return self.status in (None, 408, 429) or not 400 <= (self.status or 0) < 500


class ValidationFailed(PolicyError):
    """A field of the request is not what it must be.

    `details["validation_errors"]` lists `{field, message, type}` where the service found it.
    """

    default_code = "VALIDATION_ERROR"

    @property
    def outage(self) -> bool:
        """Not where the request is wrong, whether the service saw it or not."""
        return self.status is not None and super().outage


class Unauthorized(PolicyError):
    """The service asks for an API key, and the right one was not sent."""

    default_code = "UNAUTHORIZED"


class ModelNotFound(PolicyError):
    """The service has no such version."""

    default_code = "MODEL_NOT_FOUND"


class StateMismatch(PolicyError):
    """The service can't go on with the memory that was sent: start an episode.

    It is of a version that is gone or that was not asked for, of another service, or was changed.
    """

    default_code = "STATE_MISMATCH"


class Unsupported(PolicyError):
    """The policy can't do what is asked, such as to sample, or to drive a car."""

    default_code = "UNSUPPORTED"
    outage = False


class ResourceExhausted(PolicyError):
    """The service's queue is full."""

    default_code = "RESOURCE_EXHAUSTED"


class InferenceFailed(PolicyError):
    """Triton answered the service with an error."""

    default_code = "INFERENCE_ERROR"


class ServiceUnavailable(PolicyError):
    """The service is starting, or has lost its Triton."""

    default_code = "SERVICE_UNAVAILABLE"


class DeadlineExceeded(PolicyError):
    """No answer within the deadline: `status` is 504 where the service said so itself."""

    default_code = "DEADLINE_EXCEEDED"


BY_CODE = {kind.default_code: kind for kind in PolicyError.__subclasses__()}
"""The errors that the service tells of; those below are the client's own."""


class ConnectionFailed(PolicyError):
    """The service could not be reached, broke off, or its connection mixes answers up."""

    default_code = "CONNECTION_FAILED"


class BadAnswer(PolicyError):
    """An answer came that is not from this API, or not to what was asked: look at the URL."""

    default_code = "BAD_ANSWER"
    outage = True


class ClientClosed(PolicyError):
    """The client was closed before the call."""

    default_code = "CLIENT_CLOSED"
    outage = False
