"""What is sent and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, Mapping, NamedTuple, Sequence, SupportsFloat, TypedDict, Union


class ObservationDict(TypedDict):
    """An observation as the API has it; see `Observation` for units and ranges."""

    speed: SupportsFloat
    steering: SupportsFloat
    sensors: Iterable[SupportsFloat]


@dataclass(frozen=True)
class Observation:
    """What the car perceives at one instant, in numbers and sequences of Python or numpy.

    Attributes:
        speed: km/h, 0 to 200.
        steering: -1 (full left) to 1 (full right).
        sensors: exactly as many as the policy takes, each finite and within ±1000. Policies that
            come with CarlaRL take five range finders, left to right, each 0 to 1 of its reach.
    """

    speed: SupportsFloat
    steering: SupportsFloat
    sensors: Iterable[SupportsFloat]


class Action(NamedTuple):
    """What the car is to do; the names are those of `carla.VehicleControl`.

    Attributes:
        throttle: 0 to 1.
        brake: 0 to 1.
        steer: -1 (full left) to 1 (full right).
    """

    throttle: float
    brake: float
    steer: float


@dataclass(frozen=True)
class Prediction:
    """The service's answer.

    Attributes:
        actions: one for each observation, in order.
        version: of the policy that computed them, such as `v0.2.0`.
        timing_ms: milliseconds within the service.
        latency_ms: milliseconds as the caller saw it, tries and pauses between them included.
        deterministic: whether the actions are the policy's mean.
        seed: repeats sampled actions; None where deterministic.
        request_id: by which the service's log knows the request.
    """

    actions: tuple[Action, ...]
    version: str
    timing_ms: float
    latency_ms: float
    deterministic: bool
    seed: int | None
    request_id: str

    @property
    def action(self) -> Action:
        """The first action: the one, where one observation was sent."""
        return self.actions[0]


AnyObservation = Union[Observation, ObservationDict, Mapping[str, object]]
Observations = Union[AnyObservation, Sequence[AnyObservation]]
