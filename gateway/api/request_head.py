"""The headers of a request, and what the gateway reads from them."""

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
    """The headers of one request: pairs of a name in lower case and a value.

    `found` has the first value of each name.
    """

    __slots__ = ("found", "pairs")

    def __init__(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.pairs = headers
        self.found: dict[bytes, bytes] = dict(reversed(headers))

    @property
    def size(self) -> int:
        """Length of the headers in bytes."""
        return sum(len(name) + len(value) + 4 for name, value in self.pairs)

    @property
    def request_id(self) -> str | None:
        """The id that the caller gave this request, or None without a valid one."""
        value = self.found.get(b"x-request-id")
        return str(value, "ascii") if value and _SANE_ID.fullmatch(value) else None

    @property
    def echo(self) -> bytes | None:
        """The text that the answer must carry, or None. By it the caller knows its own answer."""
        value = self.found.get(_ECHO)
        return value if value and _SANE_ECHO.fullmatch(value) else None

    @property
    def by_proxy(self) -> bool:
        """Whether a proxy sent it: the next request on the connection may be another caller's."""
        return any(name in self.found for name in _PROXIES)

    @property
    def trace_context(self) -> dict[str, str]:
        """The W3C trace headers; a header that comes several times is joined by commas."""
        context: dict[str, str] = {}
        if b"traceparent" in self.found or b"tracestate" in self.found:
            for name, value in self.pairs:
                if name in _TRACE_CONTEXT:
                    key, text = name.decode(), value.decode("latin-1")
                    context[key] = f"{context[key]},{text}" if key in context else text
        return context

    def deadline_s(self) -> float:
        """Return the seconds from arrival until the deadline; infinity without one.

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
    """Return the error for a body of more than `max_bytes`."""
    return PayloadTooLarge(f"the body is larger than {max_bytes} bytes", limit=max_bytes)


def late_body() -> DeadlineExceeded:
    """Return the error for a body that did not arrive in time; it ends the connection."""
    late = DeadlineExceeded("the body did not arrive within the deadline")
    late.headers = {"Connection": "close"}
    return late
