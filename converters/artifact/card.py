"""The model card: the description of an artifact, checked."""

from __future__ import annotations

import json
import math
import stat
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from converters.artifact.versions import triton_version
from converters.errors import ConversionError, one_line
from policy_spec.leaves import leaves
from policy_spec.signature import Signature
from policy_spec.spaces import Box, at

CARD = "model_card.yaml"

Activation = Literal["tanh", "relu", "elu", "leaky_relu", "silu"]


class ArtifactError(ConversionError):
    """An artifact can't be used."""


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """Read a file of at most so many bytes; raise ArtifactError if that fails.

    What is no regular file is refused: a FIFO would wait for ever.
    """
    try:
        told = path.stat()
        if not stat.S_ISREG(told.st_mode):
            raise ArtifactError(f"{path}: no regular file")
        if most is not None and told.st_size > most:
            raise ArtifactError(f"{path}: it has more than {most} bytes: give a smaller one")
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


class _Loader(yaml.SafeLoader):
    """Refuses a mapping with two equal keys, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise ValueError(f"{key.value} is there twice: line {key.start_mark.line + 1}")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(content: bytes, path: Path) -> Any:
    """Read YAML without equal keys, and without aliases: these can make a tree that is too large.

    Raises ArtifactError, which names `path`.
    """
    try:
        text = content.decode("utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ValueError("aliases (*name) are not allowed: write the value out")
        return yaml.load(text, _Loader)  # noqa: S506 # a safe one
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not YAML: {one_line(error)}") from None


class Architecture(BaseModel):
    """A multi-layer perceptron from features to the policy's action, or to its logits."""

    model_config = ConfigDict(extra="forbid")

    hidden: list[Annotated[int, Field(ge=1, le=65536)]]
    activation: Activation = "tanh"


class Distribution(BaseModel):
    """How an action is made of what the network gives, and noise.

    Of a Box, `std` is `parameter` (one vector), `network` (a head of its own, as in SAC) or `none`
    (the policy has no noise, as TD3). With `squash: clip` the action is clipped to its bounds, with
    `tanh` it is squashed by tanh and scaled to them. `noise` is written where it is not the action
    space's own: `none` for a DQN.
    """

    model_config = ConfigDict(extra="forbid")

    std: Literal["parameter", "network", "none"] = "none"
    squash: Literal["clip", "tanh"] = "clip"
    noise: Literal["normal", "gumbel", "logistic", "none"] | None = None


class Action(BaseModel):
    """The action of an older card: what its elements mean, and their bounds."""

    model_config = ConfigDict(extra="forbid")

    layout: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class ModelCard(BaseModel):
    """`model_card.yaml`. Unknown fields are kept and shown unchanged.

    The signature is `observation_space`, `action_space`, `control`, `state` and `repeat` (see
    docs/SIGNATURE.md), or `sensors` and `action` with their shapes in older cards.
    """

    model_config = ConfigDict(
        extra="allow", protected_namespaces=(), allow_inf_nan=False, ser_json_inf_nan="constants"
    )

    model_name: str = Field(min_length=1)
    version: str
    model_type: Literal["pytorch", "torchscript", "onnx"]
    input_shape: list[int] | None = None
    output_shape: list[int] | None = None
    framework_version: str
    description: str = ""
    sensors: int | None = Field(default=None, ge=1, le=4096)
    observation_space: dict[str, Any] | None = None
    action_space: dict[str, Any] | None = None
    control: dict[str, Any] | None = None
    state: dict[str, Any] | None = None
    repeat: int | None = None
    architecture: Architecture | None = None
    distribution: Distribution = Distribution()
    action: Action | None = None
    performance_metrics: dict[str, Any] = {}
    artifact_hashes: dict[str, str]

    @field_validator("version")
    @classmethod
    def _semantic(cls, version: str) -> str:
        triton_version(version)
        return version

    @model_validator(mode="after")
    def _consistent(self) -> ModelCard:
        try:
            data = self.model_dump(mode="json", exclude_none=True)
            json.dumps(data, allow_nan=False, ensure_ascii=False).encode()
        except ValueError as error:
            raise ValueError(f"its values must be plain and finite: {error}") from None
        action = self.signature.action_space
        if self.observation_space is None:
            self._check_shapes()
        if self.signature.stateful and self.model_type == "pytorch":
            raise ValueError(
                "state: a pytorch model is a perceptron, which has no memory: use a torchscript or "
                "an onnx model"
            )
        if self.model_type == "pytorch" and self.architecture is None:
            raise ValueError("a pytorch model needs its architecture in the card")
        rasters = [leaf for leaf in leaves(self.signature.observation_space) if leaf.raster]
        if self.model_type == "pytorch" and rasters:
            raise ValueError(
                f"{rasters[0].name} is a raster, and a pytorch model is a perceptron, which takes "
                "none: use a torchscript or an onnx model"
            )
        if self.model_type != "pytorch" and self.distribution.std == "network":
            raise ValueError(f"std of a model of {self.model_type} must be parameter or none")
        if not isinstance(action, Box):
            if (self.distribution.std, self.distribution.squash) != ("none", "clip"):
                raise ValueError("distribution: std and squash are for a Box alone")
            return self
        new = self.observation_space is not None
        if new and self.signature.noise == "normal" and self.distribution.std == "none":
            raise ValueError("distribution.std must be parameter or network with normal noise")
        if not action.element.floating:
            raise ValueError(f"action_space.dtype: actions are floats, not {action.dtype}")
        bounds = [at(side, i) for side in (action.low, action.high) for i in range(action.size)]
        if self.distribution.squash == "tanh" and not all(map(math.isfinite, bounds)):
            raise ValueError("distribution.squash: tanh needs finite bounds of the action")
        return self

    def _check_shapes(self) -> None:
        """Check the shapes of an older card, which say again what its other fields say."""
        assert self.sensors is not None  # the signature's own check
        assert self.action is not None
        if self.input_shape != [self.sensors + 2]:
            raise ValueError(f"input_shape must be [{self.sensors + 2}]: speed, steering, sensors")
        if self.output_shape != [len(self.action.layout)]:
            raise ValueError(f"output_shape must be [{len(self.action.layout)}], as action.layout")
        if any(low >= high for low, high in zip(self.action.low, self.action.high, strict=True)):
            raise ValueError("action: each low must be below its high")

    @cached_property
    def signature(self) -> Signature:
        """What the policy takes and gives. Raises SpecError while the card is being checked."""
        return Signature.from_card(self.model_dump(mode="json", exclude_none=True))

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
