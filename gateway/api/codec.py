"""What callers send and get, in JSON and in msgpack: its form, its checks, and its errors."""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from gateway.api.errors import ValidationFailed
from gateway.api.problems import BAD_VERSION, JSON, MSGPACK, NOT_READ, failed, problem
from gateway.config.fields import VERSION_PATTERN

MAX_OBSERVATIONS = 1000
MAX_SEED = 2**63 - 1
MAX_STEP = 2**53 - 1
"""The largest `stepId`: whole numbers up to it are exact in JavaScript, too."""
MAX_PROBLEMS = 100
"""Problems of one request that are listed."""
LISTED_BYTES = 1 << 16
"""The largest body of which more than the first problem is looked for."""

EXAMPLE_OBSERVATION: Any = {"speed": 25.5, "steering": 0.1, "sensors": [0.8, 0.2, 0.5, 0.9, 0.1]}

Step = Annotated[
    int, Meta(ge=0, le=MAX_STEP, description="Chosen by the caller; its answer has the same.")
]
Seed = Annotated[int, Meta(ge=0, le=MAX_SEED)]
Version = Annotated[str, Meta(pattern=rf"{VERSION_PATTERN}(?!\n)", examples=["v0.1.0"])]


class Observation(Protocol):
    """A decoded observation."""

    speed: float
    steering: float
    sensors: list[float]


class Options(Struct, forbid_unknown_fields=True, gc=False, kw_only=True, rename="camel"):
    """What a caller may choose besides the observations."""

    deterministic: Annotated[
        bool, Meta(description="The mean action where true, a sampled one where false.")
    ] = False
    seed: Annotated[
        Seed | None,
        Meta(
            description="Seed of the sampled actions: the same seed and observations give the "
            "same actions. Drawn where absent or null; ignored where deterministic."
        ),
    ] = None
    version: Annotated[
        Version | None, Meta(description="Policy version; the active one where absent or null.")
    ] = None


class PredictRequest(Protocol):
    """A decoded body of `POST /predict`."""

    observations: list[Observation]
    deterministic: bool
    seed: int | None
    version: str | None


class StepRequest(Protocol):
    """A decoded frame of `/stream`."""

    step_id: int
    observation: Observation
    deterministic: bool
    seed: int | None
    version: str | None


class WarmupRequest(Struct, forbid_unknown_fields=True):
    """Nothing: an empty object, or no body at all."""


class Action(Struct, gc=False):
    """What the car is to do; the names are those of `carla.VehicleControl`."""

    throttle: Annotated[float, Meta(ge=0, le=1)]
    brake: Annotated[float, Meta(ge=0, le=1)]
    steer: Annotated[float, Meta(ge=-1, le=1, description="From -1 (full left) to 1 (full right).")]


_Computed = Annotated[str, Meta(description="Policy version that computed the actions.")]
_Timing = Annotated[float, Meta(description="Milliseconds from the arrival to this answer.")]
_Sampled = Annotated[
    int, Meta(description="Only where not deterministic: send it again to repeat this.")
]


class PredictAnswer(Struct, gc=False, rename="camel"):
    """One action for each observation, in order."""

    actions: list[Action]
    version: _Computed
    timing_ms: _Timing
    deterministic: bool
    seed: _Sampled | UnsetType = UNSET


class StepAnswer(Struct, gc=False, rename="camel", forbid_unknown_fields=True):
    """The action of one step."""

    step_id: Step
    action: Action
    version: _Computed
    timing_ms: _Timing
    deterministic: bool
    seed: _Sampled | UnsetType = UNSET


class StepSkipped(Struct, gc=False, rename="camel", forbid_unknown_fields=True):
    """A later step of this vehicle came before this one was sent to Triton: the latest wins."""

    step_id: Step
    skipped: Literal[True] = True


class ValidationProblem(Struct):
    """One field that is not what it must be."""

    field: Annotated[str, Meta(examples=["observations.0.speed"])]
    message: Annotated[str, Meta(examples=["Expected `float` <= 200.0"])]
    type: Annotated[str, Meta(examples=["less_than_equal"])]


class ErrorDetails(Struct):
    """Which request failed, for VALIDATION_ERROR why, and when it makes sense to try again."""

    request_id: str
    validation_errors: list[ValidationProblem] | UnsetType = UNSET
    retry_after_s: Annotated[int, Meta(ge=1)] | UnsetType = UNSET


class ErrorEnvelope(Struct):
    """What every error looks like."""

    error: str
    message: str
    details: ErrorDetails
    timestamp: Annotated[float, Meta(description="Unix time, seconds.")]


class StepError(ErrorEnvelope, kw_only=True, rename={"step_id": "stepId"}):
    """A step that got no action; the connection goes on."""

    step_id: Annotated[Step | None, Meta(description="null where the frame could not be read.")]


# Where a request can't be decoded as a whole, these say why, and of which version it is.


class _Versioned(Struct):
    version: str | None = None


class _Numbered(Struct, rename="camel"):
    step_id: Step | None = None


class _PredictEnvelope(Options, kw_only=True):
    observations: Annotated[list[Raw], Meta(min_length=1, max_length=MAX_OBSERVATIONS)]


class _StepEnvelope(Options, kw_only=True):
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
_version, _number, _warmup = _decoders(_Versioned), _decoders(_Numbered), _decoders(WarmupRequest)
_envelope = {"request": _decoders(_PredictEnvelope), "step": _decoders(_StepEnvelope)}


class Codec:
    """Decodes what is sent to policies of one signature: observations with so many sensors."""

    def __init__(self, sensors: int | None) -> None:
        """Build the decoders; None leaves the number of sensors open."""
        sensor = Annotated[float, Meta(ge=-1000, le=1000)]
        count = "exactly as many as the policy takes (see `/metadata`)"
        self.observation = msgspec.defstruct(
            "Observation",
            [
                ("speed", Annotated[float, Meta(ge=0, le=200, description="Speed, km/h.")]),
                (
                    "steering",
                    Annotated[
                        float,
                        Meta(
                            ge=-1,
                            le=1,
                            description="Steering wheel, from -1 (full left) to 1 (full right).",
                        ),
                    ],
                ),
                (
                    "sensors",
                    Annotated[
                        list[sensor],
                        Meta(
                            min_length=sensors,
                            max_length=sensors,
                            description=f"Readings, {count}.",
                            examples=[EXAMPLE_OBSERVATION["sensors"]],
                        ),
                    ],
                ),
            ],
            namespace={"__doc__": "What the car perceives at one instant."},
            forbid_unknown_fields=True,
            gc=False,
        )
        observations: Any = Annotated[
            list[self.observation],  # type: ignore[name-defined]
            Meta(min_length=1, max_length=MAX_OBSERVATIONS, examples=[[EXAMPLE_OBSERVATION]]),
        ]
        self.request = _extended(
            "PredictRequest",
            "Observations to act on; each is answered independently of the others.",
            [("observations", observations)],
        )
        self.step = _extended(
            "StepRequest",
            "One observation to act on.",
            [("step_id", Step), ("observation", self.observation)],
        )
        self.read_request: dict[str, Callable[[bytes], PredictRequest]] = _decoders(self.request)
        self.read_step: dict[str, Callable[[bytes], StepRequest]] = _decoders(self.step)
        self._read_observation = _decoders(self.observation)

    def read_request_apart(
        self, body: bytes, form: str, error: Exception | None = None
    ) -> PredictRequest:
        """Read a body that `read_request` does not take, each observation by itself.

        Raises ValidationFailed with the first problem of each observation, of `MAX_PROBLEMS` at
        most; for a body of more than `LISTED_BYTES` with the first problem alone, which is `error`
        where `read_request` has raised it already.
        """
        if len(body) > LISTED_BYTES:
            try:
                if error is None:
                    return self.read_request[form](body)
            except NOT_READ as first:
                error = first
            raise failed(error, form) from None
        try:
            envelope = _envelope["request"][form](body)
        except NOT_READ as error:
            raise failed(error, form) from None
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

    def read_step_apart(self, frame: bytes, form: str) -> StepRequest:
        """Read a frame that `read_step` does not take. Raises ValidationFailed."""
        within = ""
        try:
            envelope = _envelope["step"][form](frame)
            within = "observation"
            observation = self._read_observation[form](envelope.observation)
        except NOT_READ as error:
            raise failed(error, form, within) from None
        step: Any = self.step(
            **_options(envelope), step_id=envelope.step_id, observation=observation
        )
        return step  # type: ignore[no-any-return]


def _options(envelope: Options) -> dict[str, Any]:
    return {name: getattr(envelope, name) for name in Options.__struct_fields__}


@lru_cache(maxsize=64)
def codec_of(sensors: int | None) -> Codec:
    """Return the codec of policies with so many sensors."""
    return Codec(sensors)


def version_of(body: bytes, form: str) -> str | None:
    """Return the version that a body or a frame names, even where other fields are wrong.

    Raises ValidationFailed where it is no object, or names something else as its version.
    """
    try:
        version: str | None = _version[form](body).version
    except NOT_READ as error:
        raise failed(error, form) from None
    if version is not None and not re.fullmatch(VERSION_PATTERN, version):
        raise ValidationFailed([BAD_VERSION])
    return version


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


def _extended(name: str, doc: str, fields: list[tuple[str, Any]]) -> type[Struct]:
    return msgspec.defstruct(
        name, fields, bases=(Options,), namespace={"__doc__": doc}, kw_only=True, rename="camel"
    )
