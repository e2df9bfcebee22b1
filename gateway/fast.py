"""Reading and writing `POST /predict` without the framework, where nothing about it is unusual.

Whatever is unusual, wrong input first of all, goes to the framework as it came, so that errors of
the input are written in one place. What is answered this way is answered exactly as there.
"""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import httptools
import msgspec
from starlette.datastructures import Headers

from gateway.access import AccessLog
from gateway.deadline import HEADER, seconds_of
from gateway.doors import Doors
from gateway.keys import Keys
from gateway.metrics import Metrics
from gateway.middleware import SANE_ID, trace_headers
from gateway.policy import PolicyVersion
from gateway.predict import Prediction, Predictor
from gateway.refusals import Refusals
from gateway.schema import MAX_OBSERVATIONS, MAX_SEED
from gateway.settings import Settings
from gateway.stopping import Stopping
from gateway.versions import Versions

if TYPE_CHECKING:
    from gateway.traces import Trace, Traces

MAX_HEADS = 1024
"""Heads of requests that are remembered."""

_Sensor = Annotated[float, msgspec.Meta(ge=-1000, le=1000)]


class Observation(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A decoded observation, within all bounds but the number of sensors."""

    speed: Annotated[float, msgspec.Meta(ge=0, le=200)]
    steering: Annotated[float, msgspec.Meta(ge=-1, le=1)]
    sensors: list[_Sensor]


class Choices(msgspec.Struct, forbid_unknown_fields=True, gc=False, kw_only=True):
    """What a caller may choose besides the observations."""

    deterministic: bool = False
    seed: Annotated[int, msgspec.Meta(ge=0, le=MAX_SEED)] | None = None
    version: str | None = None


class Asked(Choices, forbid_unknown_fields=True, gc=False, kw_only=True):
    """A decoded request, within all bounds but the number of sensors."""

    observations: Annotated[
        list[Observation], msgspec.Meta(min_length=1, max_length=MAX_OBSERVATIONS)
    ]


class Action(msgspec.Struct, gc=False):
    """An action, to be written."""

    throttle: float
    brake: float
    steer: float


class _Answer(msgspec.Struct, gc=False):
    actions: list[Action]
    version: str
    timingMs: float  # noqa: N815
    deterministic: bool
    seed: int | msgspec.UnsetType = msgspec.UNSET


_decode = msgspec.json.Decoder(Asked).decode
_encode = msgspec.json.Encoder().encode
FIELDS = len(Observation.__struct_fields__)
"""Fields of an observation."""
_USUAL_TYPES = frozenset({b"application/json", b"application/json; charset=utf-8"})
_DEADLINE = HEADER.lower().encode()
_USUAL_HEADERS = frozenset(
    {b"host", b"user-agent", b"accept", b"accept-encoding", b"accept-language"}
)

_TRACE_LINE = re.compile(
    rb"\r\n(traceparent|tracestate):[ \t]*([\x20-\x7e]*)(?=\r\n[^ \t])", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of a usual request says: length of its body, its id, deadline, key's digest."""

    length: int
    request_id: str | None
    deadline_s: float
    holder: str | None


class _HeadReader:
    """Reads a request's head by httptools, and notes whether all of it is usual."""

    def __init__(self, head: bytes) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False
        self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(head)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.complete = (
            self.url == b"/predict"
            and self._parser.get_method() == b"POST"
            and self._parser.get_http_version() == "1.1"
            and self._parser.should_keep_alive()
        )

    def usual(self, max_body: int, keys: Keys | None) -> Head | None:
        if not self.complete:
            return None
        found: dict[bytes, bytes] = {}
        for name, value in self.headers:
            if name in _USUAL_HEADERS:
                continue
            if name in found:
                return None
            found[name] = value
        length = found.pop(b"content-length", b"")
        content_type = found.pop(b"content-type", None)
        request_id = found.pop(b"x-request-id", None)
        holder = None
        deadline = found.pop(_DEADLINE, None)
        deadline_s = math.inf if deadline is None else seconds_of(deadline.decode("latin-1"))
        if keys is not None:
            raw: list[Any] = [
                (name, found.pop(name))
                for name in (b"x-api-key", b"authorization")
                if name in found
            ]
            holder = keys.holder(Headers(raw=raw))
            if holder is None:
                return None
        if (
            (found and found != {b"connection": b"keep-alive"})
            or not length.isdigit()
            or not 0 < int(length) <= max_body
            or (content_type is not None and content_type not in _USUAL_TYPES)
            or (request_id is not None and not SANE_ID.fullmatch(request_id))
            or deadline_s is None
        ):
            return None
        given_id = None if request_id is None else request_id.decode()
        return Head(int(length), given_id, deadline_s, holder)


class FastPredict:
    """What the protocol below works with: one for all connections of a process."""

    def __init__(
        self,
        settings: Settings,
        doors: Doors,
        versions: Versions,
        predictor: Predictor,
        metrics: Metrics,
        stopping: Stopping,
        access: AccessLog,
        traces: "Traces | None" = None,
    ) -> None:
        """Take what the route behind works with."""
        self.stopping = stopping
        self.access = access
        self.traces = traces
        self._versions = versions
        self.predictor = predictor
        self.metrics = metrics
        self.doors = doors
        self.refusals = Refusals()
        self.begun = 0
        """Observations on their way to the line: their tasks have not run yet."""
        self._defaults: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take other limits, and judge heads anew: the doors' keys may be others too."""
        self.max_connections = settings.max_connections
        self._max_body = settings.max_body_bytes
        self.timeout_s = settings.request_timeout_ms / 1000
        self._heads: dict[bytes, Head | None] = {}

    def read(self, data: bytes) -> tuple[Head, Asked, PolicyVersion] | None:
        """Read a request that came in one piece; None where the framework must look at it."""
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            return None
        head = self._head(data[:end])
        if head is None or len(data) - end != head.length:
            return None
        asked = _decoded(data[end:])
        policy = None if asked is None else self._versions.known(asked.version)
        if asked is None or policy is None:
            return None
        if any(len(seen.sensors) != policy.sensors for seen in asked.observations):
            return None
        return head, asked, policy

    def trace(self, data: bytes) -> "Trace | None":
        """Begin the trace of a request that was read, where it is sampled."""
        assert self.traces is not None
        lines = _TRACE_LINE.findall(data, 0, data.find(b"\r\n\r\n") + 4)
        headers = trace_headers((name.decode(), value.decode()) for name, value in lines)
        return self.traces.begin("POST", "/predict", headers)

    def lines_of(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Write the headers that every answer has, which change once a second."""
        if headers is not self._defaults[0]:
            self._defaults = (headers, b"".join([b"%s: %s\r\n" % pair for pair in headers]))
        return self._defaults[1]

    def _head(self, data: bytes) -> Head | None:
        """Read a head; one that came before, byte for byte, is known already.

        Trace headers are of each request alone, so heads are remembered without them.
        """
        if data in self._heads:
            return self._heads[data]
        data = _TRACE_LINE.sub(b"", data)
        try:
            return self._heads[data]
        except KeyError:
            head = _HeadReader(data).usual(self._max_body, self.doors.keys)
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            self._heads[data] = head
            return head


def _decoded(body: bytes) -> Asked | None:
    """Decode a body; None where the framework must look at it."""
    try:
        asked = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    # Colons count keys (see schema.decode_predict). Where a name is spelt with an escape, or comes
    # twice, the counts differ.
    return asked if spelt_plainly(body, 1 + FIELDS * len(asked.observations)) else None


def spelt_plainly(body: bytes, keys: int) -> bool:
    """Whether JSON with `keys` keys besides the choices names each once, and a seed as digits."""
    has_seed = b'"seed"' in body
    keys += has_seed + (b'"deterministic"' in body) + (b'"version"' in body)
    return body.count(b":") == keys and (not has_seed or _whole(body))


def _whole(body: bytes) -> bool:
    """Whether the seed is written as a whole number: 1.0 is none here, as in the schema."""
    value = body.partition(b'"seed"')[2].lstrip(b" \t\r\n:")
    digits = value[: len(value) - len(value.lstrip(b"0123456789"))]
    return bool(digits) and value[len(digits) : len(digits) + 1] in (b",", b"}", b" ", b"\n")


def written(prediction: Prediction, deterministic: bool, seconds: float) -> bytes:
    """Write the body of an answer that took so many seconds."""
    return _encode(
        _Answer(
            [Action(*action) for action in prediction.actions],
            prediction.version,
            round(seconds * 1000, 3),
            deterministic,
            msgspec.UNSET if prediction.seed is None else prediction.seed,
        )
    )
