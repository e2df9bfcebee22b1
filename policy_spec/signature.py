"""The signature of a policy, as its card declares it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from policy_spec.checks import SpecError, dtype_of, fields, integer, shape_of, shown, text
from policy_spec.control import Control
from policy_spec.control_parsing import parse_control
from policy_spec.dtypes import DTYPES
from policy_spec.leaves import Layout, leaves
from policy_spec.parsing import parse_space
from policy_spec.spaces import (
    Box,
    Dict,
    Discrete,
    LeafSpace,
    MultiBinary,
    MultiDiscrete,
    Space,
    Tuple,
    to_data,
    without,
)

NOISES: dict[type, tuple[str, ...]] = {
    Box: ("normal", "none"),
    Discrete: ("gumbel", "none"),
    MultiDiscrete: ("gumbel", "none"),
    MultiBinary: ("logistic", "none"),
}
"""Action space → the kinds of noise that its policies may take."""


EPISODE_START = "episode_start"
"""The tensor that says for each row whether an episode starts with it: then its state is zero."""

_STATE, _NEXT = "state.", "next_state."


@dataclass(frozen=True)
class StateLeaf:
    """One part of a policy's memory: zero at an episode's start.

    Attributes:
        name: letters, digits, `_` and `-`.
        dtype: numpy's name.
        shape: of one row, at least one dimension.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def tensor(self) -> str:
        """The name of its tensor."""
        return _STATE + self.name

    @property
    def next_tensor(self) -> str:
        """The name of the tensor that it is answered in."""
        return _NEXT + self.name

    @property
    def nbytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Signature:
    """What a policy takes and gives. Make it by `from_card`.

    Attributes:
        observation_space: any space.
        action_space: the policy's own, a space without parts.
        control: how an action becomes throttle, brake and steer; None for a policy that is no
            driver, whose actions are answered in its own space.
        noise: `normal`, `gumbel`, `logistic`, or `none` for a policy that can't be sampled.
        state: its parts, in order; empty for a policy without memory.
        repeat: steps of the environment for which an action holds (frame skip).
    """

    observation_space: Space
    action_space: LeafSpace
    control: Control | None = None
    noise: str = "none"
    state: tuple[StateLeaf, ...] = ()
    repeat: int = 1

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> Signature:
        """Read the signature out of a card, of today's form or with `sensors`; raise SpecError.

        Fields that are not about the signature are not looked at.
        """
        if "observation_space" not in card:
            return _lifted(card)
        for key in ("sensors", "action"):
            if key in card:
                raise SpecError(
                    key, "is a field of older cards: observation_space is instead of it"
                )
        if "action_space" not in card:
            raise SpecError("action_space", "is missing")
        observation = parse_space(card["observation_space"], "observation_space")
        action = parse_space(card["action_space"], "action_space")
        if isinstance(action, (Dict, Tuple)):
            known = ", ".join(kind.__name__ for kind in NOISES)
            raise SpecError("action_space", f"must be one of {known}, without parts")
        mapping = card.get("control")
        return cls(
            observation,
            action,
            None if mapping is None else parse_control(mapping, action),
            _noise(card, action),
            parse_state(card.get("state") or {}, observation),
            integer(card.get("repeat", 1), "repeat", 1),
        )

    def to_data(self) -> dict[str, Any]:
        """Return the card's form, as plain data for YAML or JSON. `from_card` reads it back."""
        data: dict[str, Any] = {
            "observation_space": to_data(self.observation_space),
            "action_space": to_data(self.action_space),
        }
        if self.control is not None:
            data["control"] = self.control.to_data()
        if self.state:
            data["state"] = state_data(self.state)
        if self.repeat != 1:
            data["repeat"] = self.repeat
        return data | {"distribution": {"noise": self.noise}}

    @cached_property
    def layout(self) -> Layout:
        """How a row of observations travels to Triton."""
        return Layout.of(self.observation_space)

    @property
    def noise_width(self) -> int:
        """Numbers of noise for one row: 0 without, one for each logit or element."""
        if self.noise == "none":
            return 0
        if isinstance(self.action_space, Discrete):
            return self.action_space.n
        if isinstance(self.action_space, MultiDiscrete):
            return sum(self.action_space.nvec)
        return self.action_space.size

    @property
    def has_policy_action(self) -> bool:
        """Whether models give the policy's own action beside the control, which differs from it."""
        return self.control is not None and not self.control.plain

    @property
    def stateful(self) -> bool:
        """Whether the policy has a memory."""
        return bool(self.state)

    @property
    def state_bytes(self) -> int:
        """Bytes of the memory of one session."""
        return sum(leaf.nbytes for leaf in self.state)

    @property
    def sensors(self) -> int | None:
        """Number of sensors where an observation is `speed`, `steering`, `sensors`; else None."""
        return sensors_of(self.observation_space)

    @property
    def is_driving_form(self) -> bool:
        """Whether it is of today's form: these observations, and throttle, brake, steer."""
        plain = self.control is not None and len(self.control.names) == 3
        return self.sensors is not None and plain

    def interface(self) -> dict[str, Any]:
        """Return what a caller must know, as plain data without descriptions.

        Of two policies that answer the same controls, the policy's own action may differ.
        """
        answer: Any = to_data(without(self.action_space, "description"))
        if self.control is not None:
            answer = list(self.control.names)
        return {
            "observation": to_data(without(self.observation_space, "description")),
            "action": answer,
            "sampled": self.noise != "none",
            "stateful": self.stateful,
            "repeat": self.repeat,
        }

    def same_interface(self, other: Signature) -> bool:
        """Return whether a caller of this policy can call `other` without a change."""
        return _canonical(self.interface()) == _canonical(other.interface())

    def digest(self) -> str:
        """Return `sha256:…` of the whole signature, descriptions included."""
        return f"sha256:{hashlib.sha256(_canonical(self.to_data())).hexdigest()}"


def driving_space(sensors: int) -> Dict:
    """Return the observation space of today's cards: speed, steering and so many sensors."""
    return Dict(
        (
            ("speed", Box("float32", (), 0.0, 200.0, "km/h", "Speed, km/h.")),
            ("steering", Box("float32", (), -1.0, 1.0, None, _STEERING)),
            ("sensors", Box("float32", (sensors,), -1000.0, 1000.0, None, "Readings.")),
        )
    )


_STEERING = "Steering wheel, from -1 (full left) to 1 (full right)."


def sensors_of(space: Space) -> int | None:
    """Return the number of sensors of a `driving_space`, whatever its texts; else None."""
    part = space.parts.get("sensors") if isinstance(space, Dict) else None
    if not isinstance(part, Box) or len(part.shape) != 1:
        return None
    here, today = (without(one, "unit", "description") for one in (space, driving_space(part.size)))
    return part.size if here == today else None


def _lifted(card: Mapping[str, Any]) -> Signature:
    """Read a card of the older form: `sensors`, and `action` with layout, low and high."""
    for key in ("sensors", "action"):
        if key not in card:
            raise SpecError("observation_space", "is missing")
    sensors = integer(card["sensors"], "sensors", 1, 4096)
    action = fields(card["action"], "action", ("layout", "low", "high"))
    if not isinstance(action["layout"], (list, tuple)):
        raise SpecError("action.layout", f"must be a list of names, not {shown(action['layout'])}")
    box = {"type": "Box", "dtype": "float32", "shape": [len(action["layout"])]}
    space = parse_space(box | {key: action[key] for key in ("low", "high")}, "action")
    # These policies clip what is beyond the control's range.
    mapping = {"layout": action["layout"], "scale": "clip"}
    assert isinstance(space, Box)
    control = parse_control(mapping, space, "action")
    _noise(card, space)  # refuses a wrong `distribution`
    # Without a standard deviation a sample is the mean: callers of older cards rely on that answer.
    return Signature(driving_space(sensors), space, control, "normal")


def _noise(card: Mapping[str, Any], action: LeafSpace) -> str:
    """Return the kind of noise: `distribution.noise`, else the action space's own kind.

    A Box whose `distribution.std` is `none`, or is missing, has none.
    """
    distribution = card.get("distribution") or {}
    if not isinstance(distribution, Mapping):
        raise SpecError("distribution", f"must be a mapping, not {shown(distribution)}")
    known = NOISES[type(action)]
    fixed = isinstance(action, Box) and distribution.get("std", "none") == "none"
    noise = distribution.get("noise", "none" if fixed else known[0])
    if noise not in known:
        kinds = " or ".join(known)
        of = type(action).__name__
        raise SpecError("distribution.noise", f"of a {of} must be {kinds}, not {shown(noise)}")
    return str(noise)


def parse_state(data: Any, observation: Space) -> tuple[StateLeaf, ...]:
    """Return the parts of a card's `state`, of a policy that takes such observations.

    Raises SpecError.
    """
    if not isinstance(data, Mapping):
        raise SpecError("state", f"must be a mapping, not {shown(data)}")
    found = []
    for name, leaf in data.items():
        path = f"state.{text(name, 'state')}"
        if not re.fullmatch("[A-Za-z0-9_-]+", name):
            raise SpecError(path, "its name may have letters, digits, _ and - alone")
        fields(leaf, path, ("dtype", "shape"))
        dtype = dtype_of(leaf["dtype"], f"{path}.dtype")
        shape = shape_of(leaf["shape"], f"{path}.shape")
        if not shape:
            raise SpecError(f"{path}.shape", "must have a dimension: [1] for one number")
        found.append(StateLeaf(name, dtype, shape))
    taken = [leaf.name for leaf in leaves(observation) if leaf.name.startswith((_STATE, _NEXT))]
    if found and taken:
        raise SpecError("state", f"the observation has {taken[0]}, whose tensor is of the memory")
    return tuple(found)


def state_data(state: Iterable[StateLeaf]) -> dict[str, Any]:
    """Return the card's form of a state, as `parse_state` takes it."""
    return {leaf.name: {"dtype": leaf.dtype, "shape": list(leaf.shape)} for leaf in state}


def _canonical(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":"), allow_nan=False).encode()
