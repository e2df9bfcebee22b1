"""Requests, answers and retries without any input or output: what both clients share."""

from __future__ import annotations

import json
import math
import random
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Callable, Mapping

import httpx

from carlarl_client.errors import (
    BY_CODE,
    BadAnswer,
    ConnectionFailed,
    DeadlineExceeded,
    PolicyError,
    ValidationFailed,
)
from carlarl_client.types import Action, Observation, Observations, Prediction

PAUSE_S = 0.05
"""Longest pause before the first retry; each further one may be twice as long."""
LONGEST_PAUSE_S = 2.0


@dataclass(frozen=True)
class Call:
    """One call of the API; `repeatable` says that sending it twice does no harm."""

    method: str
    path: str
    body: bytes = b""
    repeatable: bool = True


class Deadline:
    """The moment until which a call may take.

    It is also the mapping of time limits that httpx's transport reads, so that what was spent on
    one part of a request is missing from the next.
    """

    def __init__(self, timeout: float) -> None:
        """Start the clock: `timeout` is in seconds."""
        if not (math.isfinite(timeout) and timeout > 0):
            raise ValueError(f"timeout is {timeout!r}: give seconds, more than 0")
        self.timeout = timeout
        self.started = time.perf_counter()
        self._told = False

    def left(self) -> float:
        """Give the seconds that are left, below 0 when it has passed."""
        return self.started + self.timeout - time.perf_counter()

    def spent_ms(self) -> float:
        """Give the milliseconds since the start."""
        return (time.perf_counter() - self.started) * 1000

    def get(self, _: str, default: object = None) -> float:
        """Give what is left for the next part of a request; enough to fail in an orderly way."""
        return max(self.left(), 1e-4)

    def tell_ms(self) -> int:
        """Give what the service is told: at the first try the timeout, so that heads are equal."""
        left = self.left() if self._told else self.timeout
        self._told = True
        return max(1, math.ceil(left * 1000))

    def exceeded(self) -> DeadlineExceeded:
        """Make the error."""
        return DeadlineExceeded(f"no answer within {self.timeout * 1000:.0f} ms")


class Requests:
    """Writes requests to one service."""

    def __init__(self, url: str, api_key: str | None) -> None:
        """Take the service's URL and the key that it may ask for."""
        self.base = httpx.URL(url.rstrip("/"))
        if self.base.scheme not in ("http", "https") or not self.base.host:
            raise ValueError(f"url is {url!r}: it must begin with http:// or https://")
        self._headers = [
            (b"Host", self.base.netloc),
            (b"Content-Type", b"application/json"),
        ]
        if api_key is not None:
            self._headers.append((b"X-API-Key", api_key.encode()))
        self._urls: dict[str, httpx.URL] = {}

    def write(self, call: Call, deadline: Deadline) -> httpx.Request:
        """Write a request that tells the service how long its caller waits."""
        url = self._urls.get(call.path)
        if url is None:
            url = self._urls[call.path] = self.base.copy_with(
                raw_path=self.base.raw_path.rstrip(b"/") + call.path.encode()
            )
        headers = [*self._headers, (b"X-Deadline-Ms", b"%d" % deadline.tell_ms())]
        if call.method == "POST":
            headers.append((b"Content-Length", b"%d" % len(call.body)))
        return httpx.Request(
            call.method,
            url,
            headers=headers,
            stream=httpx.ByteStream(call.body),
            extensions={"timeout": deadline},
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
        """Give the seconds to wait before the next try. Raises `error` where there is none.

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


def predict_call(
    observations: Observations,
    deterministic: bool,
    seed: int | None,
    version: str | None,
) -> Call:
    """Write the call of `/predict`. Raises ValidationFailed where JSON can't hold it."""
    several = [observations] if isinstance(observations, (Mapping, Observation)) else observations
    request: dict[str, Any] = {
        "observations": [vars(one) if isinstance(one, Observation) else one for one in several],
        "deterministic": deterministic,
    }
    if seed is not None:
        request["seed"] = seed
    if version is not None:
        request["version"] = version
    try:
        body = _encode(request).encode()
    except (TypeError, ValueError) as error:
        raise ValidationFailed(f"observations: {error}", unsent=True) from error
    return Call("POST", "/predict", body, deterministic or seed is not None)


def _plain(value: Any) -> Any:
    """Give numpy's arrays and numbers, and other sequences, as JSON has them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    return list(value)


_encode: Callable[[Any], str] = json.JSONEncoder(
    allow_nan=False, separators=(",", ":"), default=_plain
).encode


def read(status: int, headers: Mapping[str, str], body: bytes, url: httpx.URL) -> dict[str, Any]:
    """Read an answer. Raises PolicyError where it is an error, BadAnswer where it is neither."""
    request_id = headers.get("x-request-id")
    try:
        content = json.loads(body)
        if not isinstance(content, dict):
            raise TypeError
        if status < 400:
            return content
        code, message, details = content["error"], content["message"], content["details"]
        request_id = details.get("request_id", request_id)
    except (ValueError, KeyError, TypeError, AttributeError):
        text = body[:200].decode("utf-8", "replace")
        raise BadAnswer(
            f"{url} answered {status} with something that is not from this API: {text!r}",
            status=status,
            request_id=request_id,
            retry_after_s=retry_after(headers.get("retry-after")),
        ) from None
    raise BY_CODE.get(code, PolicyError)(
        message,
        code=code,
        request_id=request_id,
        status=status,
        details=details,
        retry_after_s=retry_after(headers.get("retry-after")),
    )


def retry_after(value: str | None) -> float | None:
    """Read `Retry-After`, seconds or a date; None where there is none to be read."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def prediction(
    content: dict[str, Any], headers: Mapping[str, str], observations: int, latency_ms: float
) -> Prediction:
    """Read the answer of `/predict`. Raises BadAnswer where it is none."""
    request_id = headers.get("x-request-id", "")
    try:
        read = Prediction(
            actions=tuple(
                Action(each["throttle"], each["brake"], each["steer"])
                for each in content["actions"]
            ),
            version=content["version"],
            timing_ms=content["timingMs"],
            latency_ms=latency_ms,
            deterministic=content["deterministic"],
            seed=content.get("seed"),
            request_id=request_id,
        )
    except (KeyError, TypeError) as error:
        raise BadAnswer(
            f"the answer is no prediction: {error!r}", status=200, request_id=request_id
        ) from error
    if len(read.actions) != observations:
        raise BadAnswer(
            f"{observations} observations were sent, {len(read.actions)} actions came",
            status=200,
            request_id=request_id,
        )
    return read


def transport_error(error: Exception, url: httpx.URL, deadline: Deadline) -> PolicyError:
    """Turn what httpx raises into one of ours."""
    if isinstance(error, httpx.TimeoutException):
        return deadline.exceeded()
    unsent = isinstance(error, (httpx.ConnectError, httpx.UnsupportedProtocol, httpx.ProxyError))
    return ConnectionFailed(f"{url}: {error or type(error).__name__}", unsent=unsent)
