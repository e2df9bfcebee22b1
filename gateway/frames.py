"""The frames of a control stream, in JSON and in msgpack: reading steps and writing answers."""

import re
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json

from gateway import schema
from gateway.errors import ValidationFailed
from gateway.fast import FIELDS, Action, Choices, Observation, spelt_plainly
from gateway.predict import Prediction
from gateway.schema import ErrorDetails, ErrorEnvelope
from gateway.settings import VERSION_PATTERN

MAX_STEP = 2**53 - 1
"""The largest `stepId`: whole numbers up to it are exact in JavaScript, too."""

_OBSERVATION: Any = {"speed": 25.5, "steering": 0.1, "sensors": [0.8, 0.2, 0.5, 0.9, 0.1]}
_EXAMPLE: Any = {"stepId": 17, "observation": _OBSERVATION, "deterministic": True}
StepId = Annotated[
    int, Field(ge=0, le=MAX_STEP, description="Chosen by the caller; its answer has the same.")
]


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StepRequest(schema.StrictModel):
    """One observation to act on."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    stepId: StepId  # noqa: N815
    observation: schema.Observation
    deterministic: schema.Deterministic = False
    seed: schema.Seed = None
    version: schema.Version = None


class StepAnswer(_Sent):
    """The action of one step."""

    stepId: StepId  # noqa: N815
    action: schema.Action
    version: str = Field(description="Policy version that computed the action.")
    timingMs: float = Field(description="Milliseconds from the frame's arrival to this answer.")  # noqa: N815
    deterministic: bool
    seed: int | None = Field(
        default=None, description="Only where not deterministic: send it again to repeat this."
    )


class StepSkipped(_Sent):
    """A later step of this vehicle came before this one was sent to Triton: the latest wins."""

    stepId: StepId  # noqa: N815
    skipped: Literal[True]


class StepErrorDetails(ErrorDetails):
    """As in every error; `retry_after_s` where it makes sense to try again."""

    retry_after_s: int | None = Field(default=None, ge=1)


class StepError(_Sent, ErrorEnvelope):
    """A step that got no action; the connection goes on."""

    stepId: StepId | None = Field(description="null where the frame could not be read.")  # noqa: N815
    details: StepErrorDetails


class Step(Choices, forbid_unknown_fields=True, gc=False, kw_only=True):
    """A decoded step, within all bounds but the number of sensors."""

    stepId: Annotated[int, msgspec.Meta(ge=0, le=MAX_STEP)]  # noqa: N815
    observation: Observation


class _Answer(msgspec.Struct, gc=False):
    stepId: int  # noqa: N815
    action: Action
    version: str
    timingMs: float  # noqa: N815
    deterministic: bool
    seed: int | msgspec.UnsetType = msgspec.UNSET


_VERSION = re.compile(VERSION_PATTERN)
_KEYS = 2 + FIELDS
_NAMES = [name.encode() for name in (*Step.__struct_fields__, *Observation.__struct_fields__)]
_json, _msgpack = msgspec.json.Decoder(Step).decode, msgspec.msgpack.Decoder(Step).decode
_raw = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode
_to_json, _to_msgpack = msgspec.json.Encoder().encode, msgspec.msgpack.Encoder().encode


def read(data: bytes, text: bool) -> Step:
    """Read one frame, JSON where `text`, else msgpack.

    Raises ValidationFailed, with the messages of `POST /predict`.
    """
    try:
        step = _json(data) if text else _msgpack(data)
    except (ValueError, RecursionError):
        step = None
    if step is not None:
        plain = spelt_plainly(data, _KEYS) if text else _once(data)
        if plain and (step.version is None or _VERSION.fullmatch(step.version)):
            return step
    if text:
        return _strictly(data)
    raise _refusal(data)


def check_sensors(step: Step, expected: int) -> None:
    """Raise ValidationFailed where the observation has not `expected` sensors."""
    count = len(step.observation.sensors)
    if count != expected:
        raise ValidationFailed([schema.wrong_count("observation", count, expected)])


def step_of(data: bytes, text: bool) -> int | None:
    """Give the `stepId` of a frame that could not be read as a whole; None where there is none."""
    try:
        found = from_json(data) if text else msgspec.msgpack.decode(data)
    except (ValueError, TypeError, RecursionError):
        return None
    number = found.get("stepId") if isinstance(found, dict) else None
    return number if type(number) is int and 0 <= number <= MAX_STEP else None


def answer(step: Step, prediction: Prediction, seconds: float, text: bool) -> bytes:
    """Write the action of a step that took so many seconds."""
    return (_to_json if text else _to_msgpack)(
        _Answer(
            step.stepId,
            Action(*prediction.actions[0]),
            prediction.version,
            round(seconds * 1000, 3),
            step.deterministic,
            msgspec.UNSET if prediction.seed is None else prediction.seed,
        )
    )


def skipped(step: Step, text: bool) -> bytes:
    """Write that a step was overtaken."""
    return (_to_json if text else _to_msgpack)({"stepId": step.stepId, "skipped": True})


def failed(number: int | None, envelope: dict[str, Any], text: bool) -> bytes:
    """Write the error of a step."""
    return (_to_json if text else _to_msgpack)({"stepId": number, **envelope})


def _strictly(data: bytes) -> Step:
    """Read JSON that is not spelt plainly, as `POST /predict` does. Raises ValidationFailed."""
    request = schema.decode(StepRequest, data)
    if data.count(b":") != len(request.model_fields_set) + FIELDS:  # see schema.decode_predict
        raise schema.named_twice()
    return msgspec.convert(request, Step, from_attributes=True)


def _refusal(data: bytes) -> ValidationFailed:
    """Say why msgpack is no step, in the words that `POST /predict` has for it."""
    try:
        found = msgspec.msgpack.decode(data)
    except (ValueError, TypeError, RecursionError) as error:
        reason = f"Invalid msgpack: {str(error)[:100]}"
        return ValidationFailed([{"field": "body", "message": reason, "type": "msgpack_invalid"}])
    if not isinstance(found, dict):
        reason = "Input should be an object"
        return ValidationFailed([{"field": "body", "message": reason, "type": "model_type"}])
    try:
        schema.decode(StepRequest, found)
    except ValidationFailed as error:
        return error
    return schema.named_twice()


def _once(data: bytes) -> bool:
    """Whether no object names a field twice: the decoder keeps the last of two equal keys."""
    if all(data.count(name) <= 1 for name in _NAMES):
        return True
    # The bytes of a number can spell a short name: what was kept must be all that came.
    fields = _raw(data)
    return _is_all(fields, data) and _is_all(_raw(fields["observation"]), fields["observation"])


def _is_all(fields: dict[str, msgspec.Raw], data: bytes | msgspec.Raw) -> bool:
    return 1 + sum(1 + len(name) + len(value) for name, value in fields.items()) == len(data)
