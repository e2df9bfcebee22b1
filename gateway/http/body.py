"""Read the body of a request that FastAPI serves."""

import asyncio
import time

from starlette.requests import Request

from gateway.api.request_head import late_body, too_large


async def read_body(request: Request, limit: int, deadline: float) -> bytes:
    """Read the body, at most `limit` bytes of it, before `deadline` (perf_counter).

    Raises PayloadTooLarge as soon as the body is over the limit, and DeadlineExceeded if it does
    not arrive in time; that ends the connection.
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
