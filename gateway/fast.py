"""`POST /predict` without the framework, for requests that have nothing unusual about them.

Whatever is unusual, wrong input first of all, goes to the framework as it came, so that errors of
the input are written in one place. What is answered here is answered exactly as there.
"""

import os
import time
from dataclasses import dataclass
from typing import Annotated, Any

import httptools
import msgspec
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.doors import Doors, address, too_fast
from gateway.errors import error_response, on_error
from gateway.keys import Keys
from gateway.metrics import Metrics
from gateway.middleware import SANE_ID
from gateway.policy import PolicyVersion
from gateway.predict import Prediction, Predictor, seed_of
from gateway.rows import Rows
from gateway.schema import MAX_OBSERVATIONS, MAX_SEED
from gateway.settings import Settings
from gateway.versions import Versions

MAX_HEADS = 1024
"""Heads of requests that are remembered."""

_Sensor = Annotated[float, msgspec.Meta(ge=-1000, le=1000)]


class _Observation(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    speed: Annotated[float, msgspec.Meta(ge=0, le=200)]
    steering: Annotated[float, msgspec.Meta(ge=-1, le=1)]
    sensors: list[_Sensor]


class _Asked(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    observations: Annotated[
        list[_Observation], msgspec.Meta(min_length=1, max_length=MAX_OBSERVATIONS)
    ]
    deterministic: bool = False
    seed: Annotated[int, msgspec.Meta(ge=0, le=MAX_SEED)] | None = None
    version: str | None = None


class _Action(msgspec.Struct, gc=False):
    throttle: float
    brake: float
    steer: float


class _Answer(msgspec.Struct, gc=False):
    actions: list[_Action]
    version: str
    timingMs: float  # noqa: N815
    deterministic: bool
    seed: int | msgspec.UnsetType = msgspec.UNSET


_decode = msgspec.json.Decoder(_Asked).decode
_encode = msgspec.json.Encoder().encode
_FIELDS = len(_Observation.__struct_fields__)
_USUAL_TYPES = frozenset({b"application/json", b"application/json; charset=utf-8"})
_USUAL_HEADERS = frozenset(
    {b"host", b"user-agent", b"accept", b"accept-encoding", b"accept-language"}
)


@dataclass(frozen=True, slots=True)
class _Head:
    """What the head of a usual request says: its body's length, its id and its key's digest."""

    length: int
    request_id: str | None
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

    def usual(self, max_body: int, keys: Keys | None) -> _Head | None:
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
        ):
            return None
        return _Head(int(length), None if request_id is None else request_id.decode(), holder)


class FastPredict:
    """What the protocol below works with: one for all connections of a process."""

    def __init__(
        self,
        settings: Settings,
        doors: Doors,
        versions: Versions,
        predictor: Predictor,
        metrics: Metrics,
    ) -> None:
        """Take what the route behind works with."""
        self._versions = versions
        self.predictor = predictor
        self.metrics = metrics
        self.doors = doors
        self._defaults: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take other limits, and judge heads anew: the doors' keys may be others too."""
        self._max_body = settings.max_body_bytes
        self.timeout_s = settings.request_timeout_ms / 1000
        self._heads: dict[bytes, _Head | None] = {}

    def read(self, data: bytes) -> tuple[_Head, _Asked, PolicyVersion] | None:
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

    def lines_of(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Write the headers that every answer has, which change once a second."""
        if headers is not self._defaults[0]:
            self._defaults = (headers, b"".join([b"%s: %s\r\n" % pair for pair in headers]))
        return self._defaults[1]

    def _head(self, data: bytes) -> _Head | None:
        """Read a head; one that came before, byte for byte, is known already."""
        try:
            return self._heads[data]
        except KeyError:
            head = _HeadReader(data).usual(self._max_body, self.doors.keys)
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            self._heads[data] = head
            return head


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which answers usual predictions itself.

    The application that uvicorn runs has them as its attribute `fast`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take what uvicorn gives."""
        super().__init__(*arguments, **options)
        self._fast: FastPredict = options["config"].loaded_app.fast
        self._within = False
        self._answering = False
        self._held = b""
        self._lost = False
        self._last = False

    def data_received(self, data: bytes) -> None:
        """Answer a usual prediction; hand anything else to the framework."""
        if self._answering:  # pipelined: it has to wait for its turn
            self._held += data
            self.transport.pause_reading()
            return
        idle = not self._within and (self.cycle is None or self.cycle.response_complete)
        read = self._fast.read(data) if idle else None
        if read is None:
            super().data_received(data)
            return
        limits = self._fast.doors.limits
        if limits is not None:
            head, asked, _ = read
            wait_s = limits.take(head.holder or address(self.client), len(asked.observations))
            if wait_s and not self.flow.write_paused:
                self._unset_keepalive_if_required()
                self._refuse(head, wait_s)
                return
            if wait_s:  # the framework, which refuses it too, waits until this caller reads
                super().data_received(data)
                return
        self._unset_keepalive_if_required()
        self._answering = True
        task = self.loop.create_task(self._answer(*read, time.perf_counter()))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def on_message_begin(self) -> None:
        """Note that the framework's parser is inside a request."""
        self._within = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """Note that it is outside again."""
        self._within = False
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that nobody waits for the answer any more."""
        self._lost = True
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP as any other error, and end the connection."""
        request_id = os.urandom(16).hex()
        response = error_response(400, "HTTP_ERROR", "the request is not valid HTTP", request_id)
        self._fast.metrics.answered("unmatched", "other", 400, 0.0, "HTTP_ERROR")
        self._last = True
        self._write(400, _lines(response), bytes(response.body), request_id, 0.0)
        self.transport.close()

    def shutdown(self) -> None:
        """End the connection, after the answer that is under way."""
        if self._answering:
            self._last = True
        else:
            super().shutdown()

    async def _answer(
        self, head: _Head, asked: _Asked, policy: PolicyVersion, arrived: float
    ) -> None:
        fast = self._fast
        request_id = head.request_id or os.urandom(16).hex()
        seed = seed_of(asked)
        code: str | None = None
        response: Response | None = None
        try:
            prediction = await fast.predictor.predict(
                policy,
                Rows.of(asked.observations, seed),
                seed,
                arrived + fast.timeout_s,
                lambda: self._lost,
            )
        except ClientDisconnect:
            return
        except Exception as error:
            scope: dict[str, Any] = {"type": "http", "headers": [], "request_id": request_id}
            response = await on_error(Request(scope), error)
            code = scope["error_code"]
        seconds = time.perf_counter() - arrived
        if response is None:
            status = 200
            body = _written(prediction, asked.deterministic, seconds)
            lines = _OK % len(body)
        else:
            status = response.status_code
            body, lines = bytes(response.body), _lines(response)
        fast.metrics.answered("/predict", "POST", status, seconds, code)
        if self.flow.write_paused:
            await self.flow.drain()
        if not self._lost:
            self._write(status, lines, body, request_id, seconds)
        self._answered()

    def _refuse(self, head: _Head, wait_s: float) -> None:
        """Answer a caller that sends too much; it must cost little, as there may be many."""
        error = too_fast(wait_s)
        request_id = head.request_id or os.urandom(16).hex()
        response = error_response(
            error.status, error.code, error.message, request_id, headers=error.headers
        )
        self._fast.metrics.answered("/predict", "POST", error.status, 0.0, error.code)
        self._write(error.status, _lines(response), bytes(response.body), request_id, 0.0)
        self._answered()

    def _write(
        self, status: int, lines: bytes, body: bytes, request_id: str, seconds: float
    ) -> None:
        close = b"connection: close\r\n" if self._last else b""
        stamp = b"x-request-id: %s\r\nx-process-time: %.6f\r\n" % (request_id.encode(), seconds)
        defaults = self._fast.lines_of(self.server_state.default_headers)
        self.transport.write(
            b"".join((STATUS_LINE[status], defaults, lines, stamp, close, b"\r\n", body))
        )

    def _answered(self) -> None:
        """Go on with what came meanwhile, or wait for the next request."""
        self._answering = False
        self.server_state.total_requests += 1
        if self._lost:
            return
        if self._last:
            self.transport.close()
            return
        if self._held:
            held, self._held = self._held, b""
            self.transport.resume_reading()
            self.data_received(held)
            return
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )


_OK = b"content-length: %d\r\ncontent-type: application/json\r\n"


def _lines(response: Response) -> bytes:
    return b"".join([b"%s: %s\r\n" % pair for pair in response.raw_headers])


def _decoded(body: bytes) -> _Asked | None:
    """Decode a body; None where the framework must look at it."""
    try:
        asked = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    # Colons count keys (see schema.decode_predict). Where a name is spelt with an escape, or comes
    # twice, the counts differ.
    has_seed = b'"seed"' in body
    keys = 1 + _FIELDS * len(asked.observations) + has_seed
    keys += (b'"deterministic"' in body) + (b'"version"' in body)
    if body.count(b":") != keys or (has_seed and not _whole(body)):
        return None
    return asked


def _whole(body: bytes) -> bool:
    """Whether the seed is written as a whole number: 1.0 is none here, as in the schema."""
    value = body.partition(b'"seed"')[2].lstrip(b" \t\r\n:")
    digits = value[: len(value) - len(value.lstrip(b"0123456789"))]
    return bool(digits) and value[len(digits) : len(digits) + 1] in (b",", b"}", b" ", b"\n")


def _written(prediction: Prediction, deterministic: bool, seconds: float) -> bytes:
    return _encode(
        _Answer(
            [_Action(*action) for action in prediction.actions],
            prediction.version,
            round(seconds * 1000, 3),
            deterministic,
            msgspec.UNSET if prediction.seed is None else prediction.seed,
        )
    )
