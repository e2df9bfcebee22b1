"""Reading the body of a request to the application."""

import asyncio
import time

from starlette.requests import Request

from gateway.api.request_head import late_body, too_large


async def read_body(request: Request, limit: int, deadline: float) -> bytes:
    """Read the body, at most `limit` bytes of it, before `deadline` (perf_counter).

    Raises PayloadTooLarge as soon as it is known to be over the limit, and DeadlineExceeded, which
    closes the connection, where it does not arrive in time.
    """
    chunks = []
    size = 0
    try:
        async with asyncio.timeout(deadline - time.perf_counter()):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise too_large(limit)
                chunks.append(chunk)
    except TimeoutError:
        raise late_body() from None
    return b"".join(chunks)
