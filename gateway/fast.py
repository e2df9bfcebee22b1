"""`POST /predict` without the framework, for requests that have nothing unusual about them.

Whatever is unusual, wrong input first of all, is handed on as it came, so that every error is
written in one place. What is answered here is answered exactly as the route behind would.
"""

import time
from typing import Annotated

import msgspec
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import GatewayError, on_error
from gateway.keys import Keys
from gateway.predict import Prediction, Predictor, seed_of
from gateway.rows import Rows
from gateway.schema import MAX_OBSERVATIONS, MAX_SEED
from gateway.settings import Settings
from gateway.versions import Versions

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


class _Answer(msgspec.Struct, omit_defaults=True, gc=False):
    actions: list[_Action]
    version: str
    timingMs: float  # noqa: N815
    deterministic: bool
    seed: int | None = None


_decode = msgspec.json.Decoder(_Asked).decode
_encode = msgspec.json.Encoder().encode
_FIELDS = len(_Observation.__struct_fields__)
_USUAL = frozenset({b"application/json", b"application/json; charset=utf-8"})
_UNUSUAL = frozenset({b"origin", b"content-encoding", b"transfer-encoding", b"expect"})


class FastPredict:
    """ASGI application in front of another, which it hands on what it does not answer."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        keys: Keys | None,
        versions: Versions,
        predictor: Predictor,
    ) -> None:
        """Take the application behind, and what the route behind works with."""
        self._app = app
        self._keys = keys
        self._versions = versions
        self._predictor = predictor
        self._max_body = settings.max_body_bytes
        self._timeout_s = settings.request_timeout_ms / 1000

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if (
            scope["type"] != "http"
            or scope["path"] != "/predict"
            or scope["method"] != "POST"
            or not self._usual(scope)
            or (self._keys is not None and not self._keys.allow("/predict", Headers(scope=scope)))
        ):
            await self._app(scope, receive, send)
            return
        message = await receive()
        asked = self._decoded(message)
        policy = None if asked is None else self._versions.known(asked.version)
        if (
            asked is None
            or policy is None
            or any(len(seen.sensors) != policy.sensors for seen in asked.observations)
        ):
            await self._app(scope, _replayed(message, receive), send)
            return
        arrived = scope["arrived"]
        seed = seed_of(asked)
        rows = Rows.of(asked.observations, seed)
        try:
            prediction = await self._predictor.predict(
                policy, rows, seed, arrived + self._timeout_s, lambda: gone(receive)
            )
        except GatewayError as error:
            response = await on_error(Request(scope), error)
            await response(scope, receive, send)
            return
        except ClientDisconnect:
            return
        body = _written(prediction, asked.deterministic, arrived)
        headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _usual(self, scope: Scope) -> bool:
        """Whether the headers promise a plain JSON body of a known, allowed length."""
        known_length = False
        for name, value in scope["headers"]:
            if name == b"content-length":
                known_length = int(value) <= self._max_body
            elif name == b"content-type":
                if value not in _USUAL:
                    return False
            elif name in _UNUSUAL:
                return False
        return known_length

    @staticmethod
    def _decoded(message: Message) -> _Asked | None:
        """Decode a body that came in one piece; None where the route behind must look at it."""
        if message["type"] != "http.request" or message.get("more_body"):
            return None
        body = message["body"]
        try:
            asked = _decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        # Colons count keys (see schema.decode_predict); the fields below can only be counted
        # where they are not at their defaults, so that anything else goes to the route behind.
        keys = 1 + _FIELDS * len(asked.observations)
        keys += (b'"deterministic"' in body) + (b'"seed"' in body) + (b'"version"' in body)
        if body.count(b":") != keys or (b'"seed"' in body and not _whole(body)):
            return None
        return asked


def gone(receive: Receive) -> bool:
    """Whether the client has left: one step of `receive`, which never waits.

    The request's body must have been read.
    """
    step = receive()
    try:
        step.send(None)  # type: ignore[attr-defined]
    except StopIteration as done:
        return bool(done.value["type"] == "http.disconnect")
    step.close()  # type: ignore[attr-defined]
    return False


def _whole(body: bytes) -> bool:
    """Whether the seed is written as a whole number: 1.0 is none here, as in the schema."""
    value = body.partition(b'"seed"')[2].lstrip(b" \t\r\n:")
    digits = value[: len(value) - len(value.lstrip(b"0123456789"))]
    return bool(digits) and value[len(digits) : len(digits) + 1] in (b",", b"}", b" ", b"\n")


def _replayed(message: Message, receive: Receive) -> Receive:
    """Give `message` once more, then go on receiving."""
    messages = [message]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _written(prediction: Prediction, deterministic: bool, arrived: float) -> bytes:
    return _encode(
        _Answer(
            [_Action(*action) for action in prediction.actions],
            prediction.version,
            round((time.perf_counter() - arrived) * 1000, 3),
            deterministic,
            prediction.seed,
        )
    )
