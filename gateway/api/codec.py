"""What callers send, in JSON and in msgpack: decoded, checked, and its errors."""

import asyncio
import re
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct, field

from gateway.api.errors import ValidationFailed
from gateway.api.images import joined
from gateway.api.messages import (
    MAX_OBSERVATIONS,
    Options,
    PredictRequest,
    RequestOptions,
    Step,
    StepOptions,
    StepRequest,
    WarmupRequest,
)
from gateway.api.observations import MAX_PROBLEMS, Observations, Packed, check_count
from gateway.api.problems import BAD_VERSION, JSON, MSGPACK, NOT_READ, failed, problem
from gateway.config.fields import VERSION_PATTERN
from policy_spec.example import example
from policy_spec.spaces import Space, without

LISTED_BYTES = 1 << 16
"""The largest body of which more than the first problem is looked for."""
LARGE_BYTES = 1 << 18
"""A larger body is decoded in pieces, so that other requests have their turn."""
TURN_BYTES = 1 << 16
"""Bytes of such a piece, about; nested lists take 4 ms."""

# Where a request can't be decoded as a whole, these say why, and of which version it is.


class Asked(Struct):
    """Of what a request or a step says, that which decides on the policy that answers it."""

    version: str | None = None
    states: list[str | None] | None = None
    state: str | None = None
    episode_start: bool = field(default=False, name="episodeStart")


class _Numbered(Struct, rename="camel"):
    step_id: Step | None = None


class PredictEnvelope(RequestOptions, kw_only=True):
    """A body of `POST /predict` whose observations are not decoded yet."""

    observations: Annotated[list[Raw], Meta(min_length=1, max_length=MAX_OBSERVATIONS)]


_ABSENT = Raw()
_Rows: Any = msgspec.defstruct(
    "_Rows",
    [(f"row{index}", Raw, _ABSENT) for index in range(MAX_OBSERVATIONS)],
    array_like=True,
    forbid_unknown_fields=True,
)


class _JsonEnvelope(RequestOptions, kw_only=True):
    """The same in JSON, where a list would be read to its end before its length is refused."""

    observations: _Rows


class _StepEnvelope(StepOptions, kw_only=True):
    step_id: Step
    observation: Raw


_Decode = Callable[[bytes], Any]


def _decoders(form: Any) -> dict[str, _Decode]:
    return {
        JSON: msgspec.json.Decoder(form).decode,
        MSGPACK: msgspec.msgpack.Decoder(form).decode,
    }


encode: dict[str, Callable[[Any], bytes]] = {
    JSON: msgspec.json.Encoder().encode,
    MSGPACK: msgspec.msgpack.Encoder().encode,
}
"""Writes an answer, for each format."""
_asked, _number, _warmup = _decoders(Asked), _decoders(_Numbered), _decoders(WarmupRequest)
_envelope = {"request": _decoders(PredictEnvelope), "step": _decoders(_StepEnvelope)}
_envelope["request"][JSON] = _decoders(_JsonEnvelope)[JSON]


def request_type(observation: Any) -> type[Struct]:
    """Return the type of a body of `POST /predict`, given that of an observation."""
    observations: Any = Annotated[
        list[observation], Meta(min_length=1, max_length=MAX_OBSERVATIONS)
    ]
    doc = "Observations to act on; each is answered independently of the others."
    return _extended("PredictRequest", doc, RequestOptions, [("observations", observations)])


def step_type(observation: Any) -> type[Struct]:
    """Return the type of a frame of `/stream`, given that of an observation."""
    fields = [("step_id", Step), ("observation", observation)]
    return _extended("StepRequest", "One observation to act on.", StepOptions, fields)


class Codec:
    """Decodes and packs what is sent to policies of one observation space."""

    def __init__(self, space: Space) -> None:
        """Build the decoders."""
        self._space = space
        observations = Observations(space)
        self.request, self.step = request_type(observations.type), step_type(observations.type)
        self.read_request: dict[str, Callable[[bytes], PredictRequest]] = _decoders(self.request)
        self.read_step: dict[str, Callable[[bytes], StepRequest]] = _decoders(self.step)
        self.pack, self._count = observations.pack, observations.count
        self._read_observation = _decoders(observations.type)

    @cached_property
    def example(self) -> Any:
        """An observation in JSON form. That of a large space takes a second to draw."""
        return example(self._space)

    def read_observations(self, content: Any) -> list[Any]:
        """Read observations in JSON form. Raises ValidationFailed."""
        body = encode[JSON]({"observations": content})
        return self.read_request_apart(body, JSON).observations

    def read_request_apart(
        self, body: bytes, form: str, error: Exception | None = None
    ) -> PredictRequest:
        """Read each observation of a body by itself. `error` is what `read_request` raised.

        Raises ValidationFailed, which lists the first problem of each observation, at most
        `MAX_PROBLEMS`. For a body of more than `LISTED_BYTES` it lists the first problem alone.
        """
        if len(body) > LISTED_BYTES:
            try:
                if error is None:
                    return self.read_request[form](body)
            except NOT_READ as first:
                error = first
            raise failed(error, form) from None
        envelope = read_envelope(body, form)
        observations, problems = [], []
        for index, raw in enumerate(envelope.observations):
            try:
                observations.append(self._read_observation[form](raw))
            except NOT_READ as error:
                problems.append(problem(error, form, f"observations.{index}"))
                if len(problems) == MAX_PROBLEMS:
                    break
        if problems:
            raise ValidationFailed(problems)
        request: Any = self.request(**_options(envelope), observations=observations)
        return request  # type: ignore[no-any-return]

    async def read_large(
        self, envelope: PredictEnvelope, form: str
    ) -> tuple[PredictRequest, Packed]:
        """Read and pack the observations of a large body, some at a time.

        Raises ValidationFailed.
        """
        observations, parts = [], []
        size = numbers = 0
        for index, raw in enumerate(envelope.observations):
            try:
                one = self._read_observation[form](raw)
            except NOT_READ as error:
                raise failed(error, form, f"observations.{index}") from None
            numbers += self._count((one,))
            check_count(numbers)
            observations.append(one)
            parts.append(self.pack((one,), first=index))
            size += memoryview(raw).nbytes
            if size > TURN_BYTES:
                size = 0
                await asyncio.sleep(0)
        request: Any = self.request(**_options(envelope), observations=observations)
        packed, apart = zip(*parts, strict=True)
        leaves = zip(*apart, strict=True)
        return request, (b"".join(packed), tuple(joined(leaf, [1] * len(parts)) for leaf in leaves))

    def read_step_apart(self, frame: bytes, form: str) -> StepRequest:
        """Read a frame that `read_step` does not take. Raises ValidationFailed."""
        envelope = read_step_envelope(frame, form)
        try:
            observation = self._read_observation[form](envelope.observation)
        except NOT_READ as error:
            raise failed(error, form, "observation") from None
        step: Any = self.step(
            **_options(envelope), step_id=envelope.step_id, observation=observation
        )
        return step  # type: ignore[no-any-return]


def read_envelope(body: bytes, form: str) -> PredictEnvelope:
    """Read all of a body but its observations. Raises ValidationFailed."""
    try:
        envelope: Any = _envelope["request"][form](body)
    except NOT_READ as error:
        if "of at most length" in str(error):
            raise _wrong_length(f"<= {MAX_OBSERVATIONS}") from None
        raise failed(error, form) from None
    if form == JSON:
        rows = [row for row in msgspec.structs.astuple(envelope.observations) if row is not _ABSENT]
        if not rows:
            raise _wrong_length(">= 1")
        envelope = PredictEnvelope(**_options(envelope), observations=rows)
    return envelope  # type: ignore[no-any-return]


def _wrong_length(expected: str) -> ValidationFailed:
    said = f"Expected `array` of length {expected} - at `$.observations`"
    return failed(msgspec.ValidationError(said), JSON)


def read_step_envelope(frame: bytes, form: str) -> _StepEnvelope:
    """Read all of a frame but its observation. Raises ValidationFailed."""
    try:
        envelope: _StepEnvelope = _envelope["step"][form](frame)
    except NOT_READ as error:
        raise failed(error, form) from None
    return envelope


def _options(envelope: Options) -> dict[str, Any]:
    kind = StepOptions if isinstance(envelope, StepOptions) else RequestOptions
    return {name: getattr(envelope, name) for name in kind.__struct_fields__}


def codec_of(space: Space) -> Codec:
    """Return the codec of policies with this observation space, whatever its texts."""
    return _codec_of(without(space, "unit", "description"))


_codec_of = lru_cache(maxsize=64)(Codec)


def asked_of(body: bytes, form: str) -> Asked:
    """Return what a body or a frame asks for, even where other fields are wrong.

    Raises ValidationFailed where it is no object, or one of these has another type.
    """
    try:
        asked: Asked = _asked[form](body)
    except NOT_READ as error:
        raise failed(error, form) from None
    return asked


def check_version(version: str | None) -> None:
    """Raise ValidationFailed for what names no version."""
    if version is not None and not re.fullmatch(VERSION_PATTERN, version):
        raise ValidationFailed([BAD_VERSION])


def step_of(frame: bytes, form: str) -> int | None:
    """Return the `stepId` of a frame whose other fields are wrong; None where there is none."""
    try:
        number: int | None = _number[form](frame).step_id
    except NOT_READ:
        return None
    return number


def check_warmup(body: bytes, form: str) -> None:
    """Check the body of `/warmup`: none, or an empty object. Raises ValidationFailed."""
    try:
        if body:
            _warmup[form](body)
    except NOT_READ as error:
        raise failed(error, form) from None


def _extended(
    name: str, doc: str, base: type[Struct], fields: list[tuple[str, Any]]
) -> type[Struct]:
    return msgspec.defstruct(
        name, fields, bases=(base,), namespace={"__doc__": doc}, kw_only=True, rename="camel"
    )
