"""The JSON that callers send and get; what they send is checked strictly."""

from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from gateway.errors import ValidationFailed
from gateway.settings import VERSION_PATTERN

T = TypeVar("T", bound=BaseModel)
MAX_OBSERVATIONS = 1000
MAX_SEED = 2**63 - 1

Sensor = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1000, le=1000)]
_OBSERVATION: Any = {"speed": 25.5, "steering": 0.1, "sensors": [0.8, 0.2, 0.5, 0.9, 0.1]}


class StrictModel(BaseModel):
    """What callers send: exact types, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Observation(StrictModel):
    """What the car perceives at one instant."""

    model_config = ConfigDict(json_schema_extra={"examples": [_OBSERVATION]})

    speed: float = Field(ge=0, le=200, allow_inf_nan=False, description="Speed, km/h.")
    steering: float = Field(
        ge=-1,
        le=1,
        allow_inf_nan=False,
        description="Steering wheel, from -1 (full left) to 1 (full right).",
    )
    sensors: list[Sensor] = Field(
        description="Readings, exactly as many as the policy takes (see `/metadata`)."
    )


Deterministic = Annotated[
    bool, Field(description="The mean action where true, a sampled one where false.")
]
Seed = Annotated[
    int | None,
    Field(
        ge=0,
        le=MAX_SEED,
        description="Seed of the sampled actions: the same seed and observations give the same "
        "actions. Drawn where absent or null; ignored where deterministic.",
    ),
]
Version = Annotated[
    str | None,
    Field(
        pattern=VERSION_PATTERN,
        description="Policy version; the active one where absent or null.",
        examples=["v0.1.0"],
    ),
]


class PredictRequest(StrictModel):
    """Observations to act on; each is answered independently of the others."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"observations": [_OBSERVATION], "deterministic": True}]}
    )

    observations: list[Observation] = Field(min_length=1, max_length=MAX_OBSERVATIONS)
    deterministic: Deterministic = False
    seed: Seed = None
    version: Version = None


class WarmupRequest(StrictModel):
    """Nothing: an empty object, or no body at all."""


class Action(BaseModel):
    """What the car is to do; the names are those of `carla.VehicleControl`."""

    throttle: float = Field(ge=0, le=1)
    brake: float = Field(ge=0, le=1)
    steer: float = Field(ge=-1, le=1, description="From -1 (full left) to 1 (full right).")


class PredictAnswer(BaseModel):
    """One action for each observation, in order."""

    actions: list[Action]
    version: str = Field(description="Policy version that computed the actions.")
    timingMs: float = Field(description="Milliseconds from the request's arrival to this answer.")  # noqa: N815
    deterministic: bool
    seed: int | None = Field(
        default=None, description="Only where not deterministic: send it again to repeat this."
    )


class HealthAnswer(BaseModel):
    """Whether the gateway can act, and what it is."""

    status: str = Field(pattern="^(ok|degraded)$", examples=["ok"])
    version: str | None = Field(examples=["v0.1.0"])
    git: str = Field(examples=["1a2b3c4"])
    device: str | None = Field(examples=["cpu"])
    timestamp: float = Field(description="Unix time, seconds.")


class LiveAnswer(BaseModel):
    """The process runs."""

    status: str = Field(examples=["alive"])


class ReadyAnswer(BaseModel):
    """The active version has answered its golden inference."""

    status: str = Field(examples=["ready"])
    version: str = Field(examples=["v0.1.0"])


class ActionSpace(BaseModel):
    """Names and bounds of an action's numbers, in the order of the policy's output."""

    names: list[str] = Field(examples=[["throttle", "brake", "steer"]])
    low: list[float] = Field(examples=[[0.0, 0.0, -1.0]])
    high: list[float] = Field(examples=[[1.0, 1.0, 1.0]])


class MetadataAnswer(BaseModel):
    """What the active policy version is."""

    modelName: str = Field(examples=["carla-ppo"])  # noqa: N815
    version: str = Field(examples=["v0.1.0"])
    device: str = Field(pattern="^(cpu|cuda)$", examples=["cpu"])
    inputShape: list[int] = Field(  # noqa: N815
        description="Rows (-1: any number) and features.", examples=[[-1, 7]]
    )
    actionSpace: ActionSpace  # noqa: N815
    sensors: int = Field(description="Sensors in each observation.", examples=[5])
    formats: list[str] = Field(examples=[["onnx", "torchscript"]])
    format: str = Field(description="The format that answers.", examples=["onnx"])
    artifactDigest: str = Field(examples=["sha256:0f…"])  # noqa: N815
    modelCard: dict[str, Any]  # noqa: N815
    certificate: dict[str, Any] | None = Field(
        description="Certificate of determinism across formats and batches."
    )
    maxBatchSize: int = Field(  # noqa: N815
        description="Rows of one Triton call; larger requests are split.", examples=[256]
    )


class VersionAnswer(BaseModel):
    """One version that is served."""

    version: str = Field(examples=["v0.1.0"])
    active: bool
    formats: list[str]
    artifactDigest: str  # noqa: N815
    description: str
    performanceMetrics: dict[str, Any]  # noqa: N815


class VersionsAnswer(BaseModel):
    """The versions that are served, oldest first."""

    active: str | None = Field(examples=["v0.2.0"])
    versions: list[VersionAnswer]


class WarmupAnswer(BaseModel):
    """The active version has run at several batch sizes."""

    status: str = Field(examples=["warmed"])
    version: str = Field(examples=["v0.1.0"])
    timingMs: float  # noqa: N815
    device: str = Field(examples=["cpu"])


class ValidationProblem(BaseModel):
    """One field that is not what it must be."""

    field: str = Field(examples=["observations.0.speed"])
    message: str = Field(examples=["Input should be less than or equal to 200"])
    type: str = Field(examples=["less_than_equal"])


class ErrorDetails(BaseModel):
    """Which request failed, and for VALIDATION_ERROR why."""

    model_config = ConfigDict(extra="allow")

    request_id: str
    validation_errors: list[ValidationProblem] = []


class ErrorEnvelope(BaseModel):
    """What every error looks like."""

    error: str
    message: str
    details: ErrorDetails
    timestamp: float = Field(description="Unix time, seconds.")


def decode_predict(body: bytes) -> PredictRequest:
    """Check the body of `/predict`. Raises ValidationFailed."""
    request = decode(PredictRequest, body)
    # Every key is known by now and no value holds a colon, so colons count keys. A parser
    # that keeps the last of two equal keys would let one of them vanish.
    keys = len(request.model_fields_set) + len(Observation.model_fields) * len(request.observations)
    if body.count(b":") != keys:
        raise named_twice()
    return request


def named_twice() -> ValidationFailed:
    """Make the error about an object with equal keys."""
    message = "An object names the same field twice"
    return ValidationFailed([{"field": "body", "message": message, "type": "duplicate_field"}])


def decode_warmup(body: bytes) -> None:
    """Check the body of `/warmup`: none, or an empty object. Raises ValidationFailed."""
    if body:
        decode(WarmupRequest, body)


def check_sensors(request: PredictRequest, expected: int) -> None:
    """Raise ValidationFailed where an observation has not `expected` sensors."""
    problems = [
        wrong_count(f"observations.{index}", len(observation.sensors), expected)
        for index, observation in enumerate(request.observations)
        if len(observation.sensors) != expected
    ]
    if problems:
        raise ValidationFailed(problems)


def wrong_count(observation: str, count: int, expected: int) -> dict[str, str]:
    """Say that the observation of that name has `count` sensors."""
    return {
        "field": f"{observation}.sensors",
        "message": f"The policy takes {expected} sensors, {count} came",
        "type": "sensor_count",
    }


def decode(model: type[T], body: bytes | dict[str, Any]) -> T:
    """Check JSON, or an object that was read already. Raises ValidationFailed."""
    try:
        if isinstance(body, bytes):
            return model.model_validate_json(body)
        return model.model_validate(body)
    except pydantic.ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        for problem in problems:
            if problem["type"] == "string_pattern_mismatch":  # the version is all that has one
                problem["msg"] = "must be a version like v0.1.0"
        raise ValidationFailed.of(problems) from None
