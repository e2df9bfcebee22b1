"""What is sent and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterable, NamedTuple, SupportsFloat, TypedDict


class ObservationDict(TypedDict):
    """An observation as the API has it; see `Observation` for units and ranges."""

    speed: SupportsFloat
    steering: SupportsFloat
    sensors: Iterable[SupportsFloat]


@dataclass(frozen=True)
class Observation:
    """What a car with range finders perceives, in numbers and sequences of Python or numpy.

    Observations of any other form are given as the API has them: see `PolicyClient.predict`.

    Attributes:
        speed: km/h, 0 to 200.
        steering: -1 (full left) to 1 (full right).
        sensors: exactly as many as the policy takes, each finite and within ±1000. Policies that
            come with CarlaRL take five range finders, left to right, each 0 to 1 of its reach.
    """

    speed: SupportsFloat
    steering: SupportsFloat
    sensors: Iterable[SupportsFloat]


class _Pedals(NamedTuple):
    throttle: float
    brake: float
    steer: float


class Action(_Pedals):
    """What the car is to do; the names are those of `carla.VehicleControl`.

    It is a tuple of three: `throttle, brake, steer = action`. Equal ones have equal switches, too.

    Attributes:
        throttle: 0 to 1.
        brake: 0 to 1.
        steer: -1 (full left) to 1 (full right).
        reverse: whether the car is to go backwards; False where the policy does not say.
        hand_brake: whether it is on; False where the policy does not say.
    """

    reverse: bool = False
    hand_brake: bool = False

    def __new__(
        cls,
        throttle: float,
        brake: float,
        steer: float,
        reverse: bool = False,
        hand_brake: bool = False,
    ) -> Action:
        """Make one; see the attributes."""
        action = super().__new__(cls, throttle, brake, steer)
        action.reverse, action.hand_brake = reverse, hand_brake
        return action

    def __eq__(self, other: object) -> bool:
        """Compare the numbers, and the switches of another action."""
        switches = getattr(other, "reverse", False), getattr(other, "hand_brake", False)
        return tuple.__eq__(self, other) is True and (self.reverse, self.hand_brake) == switches

    def __ne__(self, other: object) -> bool:
        """Compare likewise."""
        return not self == other

    __hash__ = _Pedals.__hash__

    def __repr__(self) -> str:
        """Show the numbers, and the switches that are on."""
        fields = [*self._asdict().items(), *((k, v) for k, v in vars(self).items() if v)]
        return f"Action({', '.join(f'{name}={value!r}' for name, value in fields)})"

    def _replace(self, **changes: Any) -> Action:
        return Action(**{**self._asdict(), **vars(self), **changes})


@dataclass(frozen=True)
class Prediction:
    """The service's answer.

    Attributes:
        actions: one for each observation, in order: an `Action`; of a policy that is no driver
            (`control` of `/metadata` is null) what its own action space has, in JSON form: a
            number, an integer, or nested lists of them.
        version: of the policy that computed them, such as `v0.2.0`.
        timing_ms: milliseconds within the service.
        latency_ms: milliseconds as the caller saw it, tries and pauses between them included.
        deterministic: whether the actions are the policy's mean.
        seed: repeats sampled actions; None where deterministic.
        request_id: by which the service's log knows the request.
        policy_actions: the actions in the policy's own space; None where they were not asked for.
        states: tokens, one for each observation, of what the policy remembers now; None where it
            has no memory. Send them with the next observations of the same episodes.
    """

    actions: tuple[Any, ...]
    version: str
    timing_ms: float
    latency_ms: float
    deterministic: bool
    seed: int | None
    request_id: str
    policy_actions: tuple[Any, ...] | None = None
    states: tuple[str, ...] | None = None

    @property
    def action(self) -> Any:
        """The first action: the one, where one observation was sent."""
        return self.actions[0]


AnyObservation = Any
"""An `Observation`, or an observation in the API's JSON form, with numpy's arrays and numbers, and
bytes in the place of base64."""
Observations = Any
"""One observation that is no list, or 1 to 1000 of them."""
