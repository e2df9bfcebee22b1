"""How long a request may take: the service's limit, or less where its caller asks for less."""

import re

from starlette.requests import HTTPConnection

from gateway.errors import ValidationFailed

HEADER = "X-Deadline-Ms"
_MILLISECONDS = re.compile(r"[1-9][0-9]{0,8}")


def allowed_s(request: HTTPConnection, limit_s: float) -> float:
    """Give the seconds that `request` may take from its arrival on, `limit_s` at most.

    Raises ValidationFailed where it asks with something that is no number of milliseconds.
    """
    values = request.headers.getlist(HEADER)
    if not values:
        return limit_s
    asked_s = seconds_of(values[0]) if len(values) == 1 else None
    if asked_s is None:
        message = "Input should be one whole number of milliseconds, from 1 to 999999999"
        raise ValidationFailed([{"field": HEADER, "message": message, "type": "int_parsing"}])
    return min(asked_s, limit_s)


def seconds_of(value: str) -> float | None:
    """Read the header's value; None where it is no positive whole number."""
    return int(value) / 1000 if _MILLISECONDS.fullmatch(value) else None
