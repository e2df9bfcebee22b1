"""The requests that benchmarks send."""

from __future__ import annotations

from itertools import cycle, islice
from typing import Any

SENSORS = (0.8, 0.2, 0.5, 0.9, 0.1)


def rows(count: int, sensors: int = len(SENSORS), steering: float = 0.1) -> list[dict[str, Any]]:
    """Give so many observations, none like another, with so many sensors each."""
    readings = list(islice(cycle(SENSORS), sensors))
    return [
        {"speed": 25.5 + 100 * i / count, "steering": steering, "sensors": readings}
        for i in range(count)
    ]


def body(count: int = 1, steering: float = 0.1, sensors: int = len(SENSORS)) -> dict[str, Any]:
    """Give a deterministic request of so many observations."""
    return {"observations": rows(count, sensors, steering), "deterministic": True}
