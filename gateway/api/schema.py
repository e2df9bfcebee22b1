"""The answers of the application's routes, as `/openapi.json` describes them."""

from typing import Any

from pydantic import BaseModel, Field


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


class ActionSpace(BaseModel, extra="allow"):
    """The control: names and bounds of its numbers, in order, and each name with its bounds."""

    names: list[str] = Field(examples=[["throttle", "brake", "steer"]])
    low: list[float] = Field(examples=[[0.0, 0.0, -1.0]])
    high: list[float] = Field(examples=[[1.0, 1.0, 1.0]])
    throttle: list[float] = Field(examples=[[0.0, 1.0]])
    brake: list[float] = Field(examples=[[0.0, 1.0]])
    steer: list[float] = Field(examples=[[-1.0, 1.0]])


class ImageLeaf(BaseModel):
    """A part of an observation that may be sent as a PNG or a JPEG."""

    leaf: str = Field(description="Its keys joined by dots; empty for the whole observation.")
    width: int = Field(description="Pixels.", examples=[96])
    height: int = Field(description="Pixels.", examples=[96])
    channels: str | None = Field(
        description="`grey`, or `RGB` or `BGR` as the model card names the order of the values in "
        "the file; null where it names neither.",
        examples=["RGB"],
    )


class MetadataAnswer(BaseModel):
    """What the active policy version is."""

    modelName: str = Field(examples=["carla-ppo"])
    version: str = Field(examples=["v0.1.0"])
    device: str = Field(pattern="^(cpu|cuda)$", examples=["cpu"])
    observationSpace: dict[str, Any] = Field(
        description="Space of an observation, as the model card has it."
    )
    policyActionSpace: dict[str, Any] = Field(
        description="The policy's own action space, before `control`."
    )
    control: dict[str, Any] | None = Field(
        description="How the policy's action becomes a control; null where it is answered as it is."
    )
    repeat: int = Field(description="Steps for which an action holds (frame skip).", examples=[1])
    stateful: bool = Field(description="Whether the policy has a memory.", examples=[False])
    exampleObservation: Any = Field(description="An observation that is valid.")
    images: list[ImageLeaf] = Field(description="What may be sent as a PNG or a JPEG.")
    inputShape: list[int] | None = Field(
        description="Rows (-1: any number) and features; null where an observation is not speed, "
        "steering and sensors.",
        examples=[[-1, 7]],
    )
    actionSpace: ActionSpace | None = Field(description="null without `control`.")
    sensors: int | None = Field(
        description="Sensors in each observation; null where it is of another form.", examples=[5]
    )
    formats: list[str] = Field(examples=[["onnx", "torchscript"]])
    format: str = Field(description="The format that answers.", examples=["onnx"])
    artifactDigest: str = Field(examples=["sha256:0f…"])
    modelCard: dict[str, Any]
    certificate: dict[str, Any] | None = Field(
        description="Certificate of determinism across formats and batches."
    )
    maxBatchSize: int = Field(
        description="Rows of one Triton call; larger requests are split.", examples=[256]
    )


class VersionAnswer(BaseModel):
    """One version that is served."""

    version: str = Field(examples=["v0.1.0"])
    active: bool
    formats: list[str]
    artifactDigest: str
    description: str
    performanceMetrics: dict[str, Any]


class VersionsAnswer(BaseModel):
    """The versions that are served and those that are held but not loaded, oldest first.

    `damaged` has those that `carlarl serve` found damaged, and why.
    """

    active: str | None = Field(examples=["v0.2.0"])
    versions: list[VersionAnswer]
    held: list[str] = Field(examples=[["v0.1.0"]])
    damaged: dict[str, str] = Field(examples=[{}])


class WarmupAnswer(BaseModel):
    """The active version has run at several batch sizes."""

    status: str = Field(examples=["warmed"])
    version: str = Field(examples=["v0.1.0"])
    timingMs: float
    device: str = Field(examples=["cpu"])
