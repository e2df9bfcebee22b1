"""What the gateway reads of a request's head."""

import math
import re
from collections.abc import Sequence

from gateway.api.errors import (
    DeadlineExceeded,
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationFailed,
)
from gateway.api.problems import JSON, MSGPACK

DEADLINE = "X-Deadline-Ms"
ECHO = "X-Carlarl-Echo"

_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_SANE_ECHO = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_MILLISECONDS = re.compile(rb"[1-9][0-9]{0,8}")
_JSON = re.compile(rb"application/(json|[\w.!#$&^+-]+\+json)\s*(;.*)?", re.IGNORECASE)
_MSGPACK = re.compile(rb"application/(x-|vnd\.)?msgpack\s*(;.*)?", re.IGNORECASE)
_DEADLINE = DEADLINE.lower().encode()
_ECHO = ECHO.lower().encode()
_TRACE_CONTEXT = (b"traceparent", b"tracestate")
_PROXIES = (b"via", b"x-forwarded-for", b"forwarded")


class RequestHead:
    """The headers of one request: names in lower case, the first value of each."""

    __slots__ = ("found", "pairs")

    def __init__(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Take pairs of name, in lower case, and value."""
        self.pairs = headers
        self.found: dict[bytes, bytes] = dict(reversed(headers))

    @property
    def size(self) -> int:
        """How long the headers are, in bytes."""
        return sum(len(name) + len(value) + 4 for name, value in self.pairs)

    @property
    def request_id(self) -> str | None:
        """The caller's own id of this request, where it sent a sane one."""
        value = self.found.get(b"x-request-id")
        return str(value, "ascii") if value and _SANE_ID.fullmatch(value) else None

    @property
    def echo(self) -> bytes | None:
        """What the answer must carry, so that the caller knows that it is its own."""
        value = self.found.get(_ECHO)
        return value if value and _SANE_ECHO.fullmatch(value) else None

    @property
    def by_proxy(self) -> bool:
        """Whether a proxy sent it, on whose connection other callers' requests may follow."""
        return any(name in self.found for name in _PROXIES)

    @property
    def trace_context(self) -> dict[str, str]:
        """W3C's trace headers; one that comes several times is joined, as its rules say."""
        context: dict[str, str] = {}
        if b"traceparent" in self.found or b"tracestate" in self.found:
            for name, value in self.pairs:
                if name in _TRACE_CONTEXT:
                    key, text = name.decode(), value.decode("latin-1")
                    context[key] = f"{context[key]},{text}" if key in context else text
        return context

    def deadline_s(self) -> float:
        """Return the seconds that the caller gives from the arrival on; infinity for no limit.

        Raises ValidationFailed where it is no number of milliseconds.
        """
        value = self.found.get(_DEADLINE)
        if value is None:
            return math.inf
        twice = sum(name == _DEADLINE for name, _ in self.pairs) > 1
        if twice or not _MILLISECONDS.fullmatch(value):
            message = "Input should be one whole number of milliseconds, from 1 to 999999999"
            raise ValidationFailed([{"field": DEADLINE, "message": message, "type": "int_parsing"}])
        return int(value) / 1000

    def body_format(self, max_bytes: int) -> str:
        """Return the format of the body: `JSON`, where none is named, or `MSGPACK`.

        Raises PayloadTooLarge for a body that says to be longer than `max_bytes`, and
        UnsupportedMediaType for another format, and for a compressed body.
        """
        found = self.found
        length = int(found.get(b"content-length", 0))
        if length > max_bytes:
            raise too_large(max_bytes)
        content_type = found.get(b"content-type")
        encoding = found.get(b"content-encoding")
        if content_type == b"application/json" and encoding is None:
            return JSON
        if not length and b"transfer-encoding" not in found:
            return JSON  # there is no body
        if encoding and encoding.lower() != b"identity":
            shown = encoding[:100].decode("latin-1")
            raise UnsupportedMediaType(f"the body must not be encoded as {shown}")
        if not content_type or _JSON.fullmatch(content_type.strip()):
            return JSON
        if _MSGPACK.fullmatch(content_type.strip()):
            return MSGPACK
        shown = content_type[:100].decode("latin-1")
        raise UnsupportedMediaType(
            f"the body must be application/json or application/msgpack, not {shown}"
        )


def too_large(max_bytes: int) -> PayloadTooLarge:
    """Make the error about a body of more than `max_bytes`."""
    return PayloadTooLarge(f"the body is larger than {max_bytes} bytes", limit=max_bytes)


def late_body() -> DeadlineExceeded:
    """Make the error about a body that did not arrive in time; it ends the connection."""
    late = DeadlineExceeded("the body did not arrive within the deadline")
    late.headers = {"Connection": "close"}
    return late
