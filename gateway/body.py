"""Reading a request's JSON body, within the limit and only where it claims to be JSON."""

import asyncio
import re
import time
from typing import Any

from starlette.requests import Request
from starlette.types import Receive

from gateway.errors import DeadlineExceeded, PayloadTooLarge, UnsupportedMediaType

_JSON = re.compile(r"application/(json|[\w.!#$&^+-]+\+json)\s*(;.*)?", re.IGNORECASE)


async def read_body(request: Request, limit: int, deadline: float) -> bytes:
    """Read the body, at most `limit` bytes of it, before `deadline` (perf_counter).

    Raises UnsupportedMediaType where its headers say that it is not plain JSON,
    PayloadTooLarge as soon as it is known to be over the limit, and DeadlineExceeded, which
    closes the connection, where it does not arrive in time.
    """
    headers = request.headers
    length = headers.get("content-length")
    if length is not None and int(length) > limit:
        raise _too_large(limit)
    if length != "0" and (length is not None or "transfer-encoding" in headers):
        _check_type(headers.get("content-type"), headers.get("content-encoding"))
    chunks = []
    size = 0
    try:
        async with asyncio.timeout(deadline - time.perf_counter()):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                chunks.append(chunk)
    except TimeoutError:
        late = DeadlineExceeded("the body did not arrive within the deadline")
        late.headers = {"Connection": "close"}
        raise late from None
    return b"".join(chunks)


def gone(receive: Receive) -> bool:
    """Whether the client has left: one step of `receive`, which never waits.

    The request's body must have been read.
    """
    step: Any = receive()
    try:
        step.send(None)
    except StopIteration as done:
        return bool(done.value["type"] == "http.disconnect")
    step.close()
    return False


def _check_type(content_type: str | None, encoding: str | None) -> None:
    if content_type and not _JSON.fullmatch(content_type.strip()):
        raise UnsupportedMediaType(f"the body must be application/json, not {content_type[:100]}")
    if encoding and encoding.lower() != "identity":
        raise UnsupportedMediaType(f"the body must not be encoded as {encoding[:100]}")


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {limit} bytes", limit=limit)
