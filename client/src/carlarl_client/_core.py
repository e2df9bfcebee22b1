"""Requests and retries without any input or output: what both clients share."""

from __future__ import annotations

import base64
import json
import math
import os
import random
import time
from dataclasses import dataclass, field
from functools import partial
from numbers import Number
from typing import Any, Mapping

import httpcore
import httpx

from carlarl_client._spaces import Space, is_large, packed
from carlarl_client.errors import ConnectionFailed, DeadlineExceeded, PolicyError, ValidationFailed
from carlarl_client.types import Observation, Observations

PAUSE_S = 0.05
"""Longest pause before the first retry; each further one may be twice as long."""
LONGEST_PAUSE_S = 2.0
LONGEST, LONGEST_ROW = 2_000_000, 1 << 17
"""Bytes of an answer's body, and more for each observation: what is longer is no answer."""


@dataclass(frozen=True)
class Call:
    """One call of the API.

    `repeatable` says that sending it twice does no harm, `asked` what `/predict` is asked, and
    `longest` how many bytes the answer may have.
    """

    method: str
    path: str
    body: bytes = b""
    repeatable: bool = True
    asked: Mapping[str, Any] = field(default_factory=dict)
    longest: int = LONGEST


class Deadline:
    """The moment until which a call may take."""

    def __init__(self, timeout: float) -> None:
        """Start the clock: `timeout` is in seconds."""
        if not (math.isfinite(timeout) and timeout > 0):
            raise ValueError(f"timeout is {timeout!r}: give seconds, more than 0")
        self.timeout = timeout
        self._started = time.perf_counter()

    def left(self) -> float:
        """Return the seconds that are left, below 0 when it has passed."""
        return self._started + self.timeout - time.perf_counter()

    def spent_ms(self) -> float:
        """Return the milliseconds since the start."""
        return (time.perf_counter() - self._started) * 1000


class Try:
    """One sending of a call.

    Attributes:
        token: random; the service's log has it as the request's id, and its answer as an echo.
        url: that is asked.
        longest: bytes that the answer may have.
    """

    def __init__(self, url: str, deadline: Deadline, longest: int) -> None:
        """Draw the token."""
        self.token = os.urandom(16).hex()
        self.url = url
        self.longest = longest
        self._deadline = deadline

    def exceeded(self) -> DeadlineExceeded:
        """Make the error of a deadline that has passed."""
        waited = f"no answer within {self._deadline.timeout * 1000:.0f} ms"
        return DeadlineExceeded(waited, request_id=self.token)

    def failed(self, error: Exception) -> PolicyError:
        """Make one of our errors of what was raised while this was sent or its answer came."""
        if isinstance(error, httpcore.TimeoutException):
            return self.exceeded()
        unsent = isinstance(error, UNSENT)
        return ConnectionFailed(
            f"{self.url}: {str(error) or type(error).__name__}",
            request_id=None if unsent else self.token,
            unsent=unsent,
        )


PARTS = ("connect", "read", "write")
"""For these our streams get the deadline itself: what one part took is missing from the next."""
UNSENT = (httpcore.ConnectError, httpcore.UnsupportedProtocol, httpcore.ProxyError)


class Requests:
    """Writes requests to one service."""

    def __init__(self, url: str, api_key: str | None) -> None:
        """Take the service's URL and the key that it may ask for.

        Raises ValueError, which shows neither, where one can't be what it is to be.
        """
        self.url = url.rstrip("/")
        try:
            base = httpx.URL(self.url)
        except httpx.InvalidURL:
            base = httpx.URL()
        if base.scheme not in ("http", "https") or not base.host:
            raise ValueError("url must be one that begins with http:// or https://")
        if base.userinfo or base.query or base.fragment or "@" in base.path:
            raise ValueError("url must have no password, query or fragment; the key is api_key")
        self._url = partial(
            httpcore.URL, scheme=base.raw_scheme, host=base.raw_host, port=base.port
        )
        self._path = base.raw_path.rstrip(b"/")
        self._headers = [
            (b"Host", base.netloc),
            (b"Accept-Encoding", b"identity"),
            (b"Content-Type", b"application/json"),
        ]
        if api_key is not None:
            if not (api_key.isascii() and api_key.isprintable() and api_key == api_key.strip()):
                raise ValueError("api_key has a character that no header can hold")
            self._headers.append((b"X-API-Key", api_key.encode()))

    def write(self, call: Call, deadline: Deadline) -> tuple[Try, httpcore.Request]:
        """Write a request that tells the service how long its caller waits."""
        tried = Try(self.url + call.path, deadline, call.longest)
        left = deadline.left()
        token = tried.token.encode()
        headers = [
            *self._headers,
            (b"X-Deadline-Ms", b"%d" % max(1, math.ceil(left * 1000))),
            (b"X-Request-ID", token),
            (b"X-Carlarl-Echo", token),
        ]
        if call.method == "POST":
            headers.append((b"Content-Length", b"%d" % len(call.body)))
        target = self._path + call.path.encode()
        return tried, httpcore.Request(
            call.method,
            self._url(target=target),
            headers=headers,
            content=call.body,
            extensions={"timeout": {**dict.fromkeys(PARTS, deadline), "pool": left}},
        )


class Retries:
    """Decides after each failure whether a call is sent again, and when."""

    def __init__(self, call: Call, deadline: Deadline, most: int) -> None:
        """Allow `most` retries of `call`."""
        self._call = call
        self._deadline = deadline
        self._most = most
        self._done = 0

    def pause(self, error: PolicyError) -> float:
        """Return the seconds to wait before the next try. Raises `error` where there is none.

        A request that was answered 429 or 503 with `Retry-After`, or that never left, may be sent
        again; one that got lost only where repeating it gives the same answer.
        """
        asked_for = error.status in (429, 503) and error.retry_after_s is not None
        lost = isinstance(error, ConnectionFailed) and (error.unsent or self._call.repeatable)
        if self._done >= self._most or not (asked_for or lost):
            raise error
        longest = min(PAUSE_S * 2**self._done, LONGEST_PAUSE_S)
        pause = (error.retry_after_s or 0.0) + random.uniform(0.0, longest)
        if pause >= self._deadline.left():
            raise error
        self._done += 1
        return pause


class LargeArray(Exception):
    """An observation has an array that may travel as bytes, if its space is known."""


def predict_call(
    observations: Observations, options: Mapping[str, Any], space: Space | None
) -> Call:
    """Write the call of `/predict`, with the `options` that are not None.

    `space` is that of an observation, empty where the service does not say, None where it was not
    asked. Raises ValidationFailed where JSON can't hold it, LargeArray where `space` is needed.
    """
    request = {name: value for name, value in options.items() if value is not None}
    try:
        one = isinstance(observations, ONE)
        several = [observations] if one else list(observations)
        rows = [vars(each) if isinstance(each, Observation) else each for each in several]
        if space:
            rows = [packed(each, space) for each in rows]
        request["observations"] = rows
        body = (_encode_small if space is None else _encode)(request).encode()
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValidationFailed(f"observations: {error}", unsent=True) from error
    repeatable = request["deterministic"] or "seed" in request
    return Call("POST", "/predict", body, repeatable, request, LONGEST + LONGEST_ROW * len(rows))


ONE = (Mapping, Observation, Number, str, bytes)
"""What is one observation by itself; anything else is several."""


def _plain(value: Any) -> Any:
    """Return numpy's arrays and numbers, bytes, and other sequences, as JSON has them."""
    if hasattr(value, "tolist") and not isinstance(value, memoryview):
        return value.tolist()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return dict(value)
    return list(value)


def _plain_small(value: Any) -> Any:
    if is_large(value):
        raise LargeArray
    return _plain(value)


_encode, _encode_small = (
    json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=plain).encode
    for plain in (_plain, _plain_small)
)
