"""What a user declares of a network: what it takes, and what its outputs mean.

The importers of programs share it: a program tells neither.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from converters.artifact.card import ArtifactError
from converters.importers import interface
from converters.importers.interface import Options
from policy_spec import checks
from policy_spec.checks import SpecError
from policy_spec.control import RANGES
from policy_spec.graph import Input, choices, feature_width, features_width, program_inputs
from policy_spec.leaves import Leaf, leaves
from policy_spec.signature import Signature, StateLeaf
from policy_spec.spaces import (
    Box,
    Discrete,
    LeafSpace,
    MultiBinary,
    MultiDiscrete,
    Space,
    at,
    uniform,
)
from triton_backend.preprocessing import MAX_FEATURES

SPEC = ("observation_space", "action_space", "control", "state", "repeat", "distribution")
"""The card's fields that a specification may have."""


@dataclass(frozen=True)
class Kind:
    """A distribution.

    Attributes:
        spaces: the action spaces that it is of.
        parameters: what a network gives of it, an output for each.
        seconds: what `second_output` may say.
        squashed: whether `squash` may be `tanh`.
        sampled: whether serving can draw of it.
    """

    spaces: tuple[type, ...]
    parameters: tuple[str, ...]
    seconds: tuple[str | None, ...] = (None, "ignore")
    squashed: bool = False
    sampled: bool = True


_STD = (None, "std", "log-std")
_CHOSEN = (Discrete, MultiDiscrete)
DISTRIBUTIONS: dict[str, Kind] = {
    "gaussian": Kind((Box,), ("mean", "standard deviation"), _STD, squashed=True),
    "deterministic": Kind((Box,), ("action",), squashed=True, sampled=False),
    "beta": Kind((Box,), ("alpha", "beta"), (None,), sampled=False),
    "categorical": Kind(_CHOSEN, ("logits",)),
    "q-values": Kind(_CHOSEN, ("values",), sampled=False),
    "bernoulli": Kind((MultiBinary,), ("logits",)),
}
"""By name. The first of a space, or of a Box the first with as many parameters as the network has
outputs, is the one that nobody has to name."""

Beta = Literal["mode", "mean"]


class Said(Options, total=False):
    """What the user says of a network, beside what all importers take. Every entry is optional.

    `fields` names the features, see `interface.named`. Instead of it `spec` has fields of the card,
    or `env` names a Gymnasium environment, whose `fields` may be named too; `env_arguments` are its
    constructor's. `distribution` is a name of `DISTRIBUTIONS`; `beta` is what of a Beta is served.
    A Box's mean is clipped to its bounds, or by `squash: tanh` squashed to them. `second_output` is
    `std`, `log-std`, or `ignore`.
    """

    fields: Sequence[str] | None
    spec: Mapping[str, Any] | None
    env: str | None
    env_arguments: Any
    distribution: str | None
    beta: Beta | None
    squash: str
    second_output: str | None


@dataclass(frozen=True)
class Declared:
    """The checked declaration of one network. Make it by `of`.

    Attributes:
        source: what errors name.
        said: what the user said.
        observation: its space.
        space: the action's; None for a Box without bounds, as wide as the network's output.
        spec: the signature of `--spec`, if it was given.
        environment: the one that `--env` names, made.
    """

    source: Path
    said: Said
    observation: Space
    space: LeafSpace | None
    spec: Signature | None = None
    environment: Any = None

    @classmethod
    def of(cls, source: Path, said: Said) -> "Declared":
        """Check what the user said; raise ArtifactError for what is missing or does not fit."""
        if said.get("env_arguments") is not None and said.get("env") is None:
            raise ArtifactError("--env-arguments: they are for the environment that --env names")
        spec, env = said.get("spec"), said.get("env")
        if spec is not None:
            signature = _signature(source, spec, said)
            declared = cls(
                source, said, signature.observation_space, signature.action_space, signature
            )
        elif env is not None:
            declared = _of_environment(source, env, said)
        else:
            declared = cls(source, said, _observation(source, said), _action(source, said))
        if declared.features > MAX_FEATURES:
            raise ArtifactError(
                f"{source}: {declared.features} features are more than {MAX_FEATURES}"
            )
        declared._check()
        return declared

    def told(self, distribution: str) -> "Declared":
        """Return it with a distribution that the network itself tells; raise as `of` does."""
        said: Any = {**self.said, "distribution": distribution}
        declared = replace(self, said=said)
        declared._check()
        return declared

    @property
    def features(self) -> int:
        """Number of features of an observation."""
        return features_width(self.observation)

    @property
    def state(self) -> tuple[StateLeaf, ...]:
        """The parts of its memory; none without `--spec`."""
        return () if self.spec is None else self.spec.state

    @property
    def taken(self) -> tuple[Input, ...]:
        """What a program of it takes."""
        return program_inputs(self.observation, self.state)

    @property
    def rasters(self) -> list[Leaf]:
        """The parts of an observation that are no features."""
        return [leaf for leaf in leaves(self.observation) if leaf.raster]

    @property
    def squash(self) -> str:
        """How a Box's mean comes into its bounds: `clip` or `tanh`."""
        return self.said.get("squash", "clip")

    @property
    def options(self) -> Options:
        """What all importers take; the description says what of a Beta is the action."""
        if self.beta is None:
            return self.said
        served = f"The action is the {self.beta} of a Beta distribution."
        told = {"description": f"{self.said.get('description', '')} {served}".strip()}
        return {**self.said, **told}  # type: ignore[typeddict-item]

    @property
    def beta(self) -> Beta | None:
        """What of a Beta distribution is the action; None for another distribution."""
        return self.said.get("beta") or (
            "mode" if self.said.get("distribution") == "beta" else None
        )

    @property
    def second(self) -> str | None:
        """What a second output is: `std`, `log-std`, `ignore`, `beta mode`, `beta mean`, or None,
        where nobody said it."""
        said = self.said.get("second_output")
        if self.beta is not None:
            return f"beta {self.beta}"
        return "std" if said is None and self.said.get("distribution") == "gaussian" else said

    def name(self, width: int, outputs: int) -> tuple[LeafSpace, str]:
        """Return the action space and the distribution of a network with so many outputs.

        `width` is that of the first. Raises ArtifactError if one does not fit the other.
        """
        space = self.space or Box("float32", (width,), -math.inf, math.inf)
        if (expected := feature_width(space)) != width:
            raise ArtifactError(
                f"{self.source}: it gives {width} numbers for each row, and the action needs "
                f"{expected}"
            )
        if self.beta is not None:  # of which the action alone is left
            return space, "beta"
        name = self.said.get("distribution")
        if name is None:
            if isinstance(space, Box):
                name = "gaussian" if outputs == 2 else "deterministic"
            elif self.spec is not None and self.spec.noise == "none":
                name = "q-values"
            else:
                name = next(
                    one for one, kind in DISTRIBUTIONS.items() if type(space) in kind.spaces
                )
        kind = DISTRIBUTIONS[name]
        if len(kind.parameters) != outputs:
            wanted = " and ".join(kind.parameters)
            hint = "; --second-output ignore leaves a second one away" if outputs == 2 else ""
            raise ArtifactError(
                f"{self.source}: it gives {outputs} outputs, and a {type(space).__name__} with the "
                f"distribution {name} needs {wanted}{hint}"
            )
        return space, name

    def card(self, space: LeafSpace, name: str) -> dict[str, Any]:
        """Return the card's fields for the signature and the distribution `name`."""
        distribution: dict[str, Any] = {}
        if isinstance(space, Box):
            std = "parameter" if name == "gaussian" else "none"
            distribution = {"std": std, "squash": self.squash}
        elif not DISTRIBUTIONS[name].sampled:
            distribution = {"noise": "none"}
        if self.spec is None:
            card = interface.card_fields(self.source, self.observation, space, self.said)
        else:
            card = self.spec.to_data()
        return card | {"distribution": distribution}

    def choose(self, space: LeafSpace, output: NDArray[np.float32]) -> NDArray[Any]:
        """Return the deterministic action of a mean, or of logits, shape (n, elements)."""
        if isinstance(space, Box):
            low, high = (np.array(side, np.float32).ravel() for side in (space.low, space.high))
            if self.squash == "tanh":
                return low + np.float32(0.5) * (np.tanh(output) + np.float32(1)) * (high - low)
            return output.clip(low, high)
        if isinstance(space, MultiBinary):
            return (output > 0).astype(np.int8)
        values = choices(space) or []
        ends = np.cumsum([len(one) for one in values])[:-1]
        return np.stack(
            [
                part.argmax(axis=1) + one.start
                for part, one in zip(np.split(output, ends, axis=1), values, strict=True)
            ],
            axis=1,
        )

    def _check(self) -> None:
        """Raise ArtifactError for a distribution that does not fit the action space."""
        of = Box if self.space is None else type(self.space)
        fitting = {name: kind for name, kind in DISTRIBUTIONS.items() if of in kind.spaces}
        name, second = self.said.get("distribution"), self.said.get("second_output")
        if name is not None and name not in fitting:
            known = " or ".join(fitting)
            raise ArtifactError(
                f"--distribution {name}: the action is a {of.__name__}: take {known}"
            )
        kinds = fitting if name is None else {name: fitting[name]}
        what = f"an action that is a {of.__name__}" if name is None else f"--distribution {name}"
        if not any(second in kind.seconds for kind in kinds.values()):
            wanted = " and ".join(next(iter(kinds.values())).parameters)
            raise ArtifactError(f"--second-output {second}: {what} takes {wanted}: leave it away")
        if self.squash == "tanh" and not any(kind.squashed for kind in kinds.values()):
            raise ArtifactError(
                f"--squash tanh: it is for a mean, and {what} has none: leave it away"
            )
        if self.said.get("beta") is not None and name != "beta":
            raise ArtifactError(f"--beta {self.beta}: it is for --distribution beta")
        if name == "beta" and not (
            isinstance(self.space, Box) and np.isfinite(bounds(self.space)).all()
        ):
            raise ArtifactError(
                "--distribution beta: the action needs finite bounds: say them with --layout, "
                "--env or --spec"
            )
        silent = self.spec is not None and self.spec.noise == "none" and of is not Box
        if silent and name is not None and DISTRIBUTIONS[name].sampled:
            raise ArtifactError(f"--spec: its noise is none, and --distribution {name} has one")


def bounds(space: Box) -> tuple[list[float], list[float]]:
    """Return the lower and the upper bound of each element."""
    low, high = (
        [float(at(side, i)) for i in range(space.size)] for side in (space.low, space.high)
    )
    return low, high


def _signature(source: Path, spec: Mapping[str, Any], said: Said) -> Signature:
    """Return the signature that a specification declares, if nothing else says it again."""
    flags = (*interface.MAPPINGS, "scale", "repeat", "fields", "env")
    given = [f"--{name}" for name in flags if said.get(name) is not None]
    if given:
        raise ArtifactError(f"--spec: it says what {', '.join(given)} would: give one of them")
    try:
        told = checks.fields(spec, "--spec", SPEC[:2], SPEC[2:])
        checks.fields(told.get("distribution", {}), "--spec: distribution", (), ("noise",))
        return Signature.from_card(told)
    except SpecError as error:
        raise ArtifactError(f"{source}: {error}") from None


def _of_environment(source: Path, env: str, said: Said) -> Declared:
    from converters.importers import environment

    made = environment.make(env, said.get("env_arguments"))
    observation, action = environment.spaces_of(env, made)
    fields = said.get("fields")
    if fields is not None:
        if not isinstance(observation, Box) or len(observation.shape) != 1:
            raise ArtifactError(
                f"--fields: they name the numbers of a vector, and an observation of {env} is a "
                f"{type(observation).__name__}: leave them away"
            )
        observation = interface.named(source, observation, fields, interface.teller(said))
    return Declared(source, said, observation, action, environment=made)


def _observation(source: Path, said: Said) -> Space:
    fields = said.get("fields")
    if fields is None:
        raise ArtifactError(
            f"{source}: a program does not tell what an observation is: say it with --fields, e.g. "
            "--fields speed,steering,sensors:5 or --fields vector:12, with --spec FILE.yaml, or "
            "with --env module:Class"
        )
    total = sum(width or 1 for _, width in interface.parse_fields(fields))
    vector = Box("float32", (total,), -math.inf, math.inf)
    return interface.named(source, vector, fields, interface.teller(said))


def _action(source: Path, said: Said) -> LeafSpace | None:
    """Return the action space that the control is for, None where there is none."""
    layout, table, axes = said.get("layout"), said.get("table"), said.get("axes")
    if layout is not None:
        limits = [RANGES.get(name, (-1.0, 1.0)) for name in layout]
        low, high = map(uniform, zip(*limits, strict=True))
        return Box("float32", (len(layout),), low, high)
    if table is None and axes is None:
        return None
    if table is not None:
        if not isinstance(table, list) or not table:
            raise ArtifactError(f"{source}: --table: must be a list, one control for each value")
        return Discrete(len(table))
    branches = [axes] if isinstance(axes, Mapping) else axes
    if isinstance(branches, list) and all(isinstance(one, Mapping) for one in branches):
        parts = [part for one in branches for part in one.values()]
        if parts and all(isinstance(part, list) and part for part in parts):
            return MultiDiscrete(tuple(map(len, parts)), (0,) * len(parts))
    raise ArtifactError(f"{source}: --axes: must be names with values, like steer: [-1, 0, 1]")
