"""The requests that benchmarks send."""

from typing import Any

from policy_spec.example import example
from policy_spec.signature import driving_space, sensors_of
from policy_spec.spaces import Space
from policy_spec.validate import pack

DRIVING = driving_space(5)
"""What the policies that come with CarlaRL take."""


def rows(count: int, space: Space = DRIVING, steering: float = 0.1) -> list[Any]:
    """Return so many observations, none like another where the space has so many."""
    if sensors_of(space) is None:
        return [example(space, seed) for seed in range(count)]
    first = example(space) | {"steering": steering}
    return [first | {"speed": 25.5 + 100 * i / count} for i in range(count)]


def body(count: int = 1, steering: float = 0.1, space: Space = DRIVING) -> dict[str, Any]:
    """Return a deterministic request of so many observations."""
    return {"observations": rows(count, space, steering), "deterministic": True}


def tensors(count: int, space: Space) -> list[dict[str, bytes]]:
    """Return the bytes of so many observations, each by the names of its leaves' tensors."""
    packed = (pack(space, one).items() for one in rows(count, space))
    return [{name: data for name, data in one if isinstance(data, bytes)} for one in packed]
