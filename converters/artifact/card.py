"""The model card: the description of an artifact, checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from converters.artifact.versions import triton_version
from converters.errors import ConversionError, one_line

CARD = "model_card.yaml"

LAYOUTS = (("throttle", "brake", "steer"), ("steer", "acceleration"))

Activation = Literal["tanh", "relu", "elu", "leaky_relu", "silu"]


class ArtifactError(ConversionError):
    """An artifact can't be used."""


def read_bytes(path: Path) -> bytes:
    """Read a file of an artifact; raise ArtifactError if that fails."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file") from None
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}") from None


def first_fault(error: ValidationError) -> str:
    """Return the first field that is wrong, and why, as one sentence."""
    first = error.errors()[0]
    where = "".join(f"{part}." for part in first["loc"]).rstrip(".")
    return ": ".join(filter(None, (where, first["msg"].removeprefix("Value error, "))))


def parse_yaml(content: bytes, path: Path) -> Any:
    """Read YAML without aliases: with them, a few lines can make a tree that is too large.

    Raises ArtifactError, which names `path`.
    """
    try:
        text = content.decode("utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ValueError("aliases (*name) are not allowed: write the value out")
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not YAML: {one_line(error)}") from None


class Architecture(BaseModel):
    """A multi-layer perceptron from features to the policy's action."""

    model_config = ConfigDict(extra="forbid")

    hidden: list[Annotated[int, Field(ge=1, le=65536)]]
    activation: Activation = "tanh"


class Distribution(BaseModel):
    """How an action is made of mean and noise.

    `std` is `parameter` (one vector), `network` (a head of its own, as in SAC) or `none` (the
    policy has no noise, as TD3). With `squash: clip` the action is clipped to its bounds, with
    `tanh` it is squashed by tanh and scaled to them.
    """

    model_config = ConfigDict(extra="forbid")

    std: Literal["parameter", "network", "none"] = "none"
    squash: Literal["clip", "tanh"] = "clip"


class Action(BaseModel):
    """The policy's own action: what its elements mean and their bounds.

    `acceleration` above zero is throttle, below zero brake.
    """

    model_config = ConfigDict(extra="forbid")

    layout: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @model_validator(mode="after")
    def _check(self) -> Action:
        if not any(sorted(self.layout) == sorted(known) for known in LAYOUTS):
            known = " or ".join(", ".join(layout) for layout in LAYOUTS)
            raise ValueError(f"layout must be {known}, in any order")
        if not len(self.low) == len(self.high) == len(self.layout):
            raise ValueError("low and high must have one number per element of layout")
        if any(low >= high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError("each low must be below its high")
        return self


class ModelCard(BaseModel):
    """`model_card.yaml`. Unknown fields are kept and shown unchanged."""

    model_config = ConfigDict(
        extra="allow", protected_namespaces=(), allow_inf_nan=False, ser_json_inf_nan="constants"
    )

    model_name: str = Field(min_length=1)
    version: str
    model_type: Literal["pytorch", "torchscript"]
    input_shape: list[int]
    output_shape: list[int]
    framework_version: str
    description: str = ""
    sensors: int = Field(ge=1, le=4096)
    architecture: Architecture | None = None
    distribution: Distribution = Distribution()
    action: Action
    performance_metrics: dict[str, Any] = {}
    artifact_hashes: dict[str, str]

    @field_validator("version")
    @classmethod
    def _semantic(cls, version: str) -> str:
        triton_version(version)
        return version

    @model_validator(mode="after")
    def _consistent(self) -> ModelCard:
        if self.input_shape != [self.sensors + 2]:
            raise ValueError(f"input_shape must be [{self.sensors + 2}]: speed, steering, sensors")
        if self.output_shape != [len(self.action.layout)]:
            raise ValueError(f"output_shape must be [{len(self.action.layout)}], as action.layout")
        if self.model_type == "pytorch" and self.architecture is None:
            raise ValueError("a pytorch model needs its architecture in the card")
        if self.model_type == "torchscript" and self.distribution.std == "network":
            raise ValueError("a torchscript model's std must be parameter or none")
        try:
            json.dumps(self.model_dump(mode="json"), allow_nan=False)
        except ValueError as error:
            raise ValueError(f"its values must be plain and finite: {error}") from None
        return self

    @classmethod
    def parse(cls, content: bytes, path: Path) -> ModelCard:
        """Check a card's bytes; raise ArtifactError, which names `path` and the field."""
        try:
            return cls.model_validate(parse_yaml(content, path))
        except ValidationError as error:
            raise ArtifactError(f"{path}: {first_fault(error)}") from None

    def write(self, path: Path) -> None:
        """Write the card, fields in the order of this class."""
        content = self.model_dump(mode="json", exclude_none=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False, width=100), encoding="utf-8")
