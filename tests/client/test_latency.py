"""Latency in the loop, by counting steps."""

from __future__ import annotations

import pytest

from carlarl_client import Action, LatencyInTheLoop


def drive(loop: LatencyInTheLoop, steps: int, took_ms: float = 0.0) -> tuple[list[float], int]:
    """The throttle of each step, where the answer to step i's observation is throttle i + 1."""
    asked = 0
    applied = []
    for step in range(steps):

        def ask(step: int = step) -> tuple[Action, float]:
            nonlocal asked
            asked += 1
            return Action(step + 1.0, 0.0, 0.0), took_ms

        applied.append(loop.step(ask).throttle)
    return applied, asked


def test_without_latency_each_step_has_its_own_action() -> None:
    assert drive(LatencyInTheLoop(0.05, 0.0), 4) == ([1.0, 2.0, 3.0, 4.0], 4)


def test_the_action_before_goes_on_for_as_many_steps_as_the_answer_took() -> None:
    loop = LatencyInTheLoop(0.05, 100.0)
    assert drive(loop, 8) == ([0.0, 0.0, 1.0, 1.0, 3.0, 3.0, 5.0, 5.0], 4)
    assert loop.charged_steps == 8


def test_the_parts_are_the_whole() -> None:
    parts = LatencyInTheLoop(0.05, 100.0)
    applied = []
    for step in range(8):
        if parts.asks:
            parts.answered(Action(step + 1.0, 0.0, 0.0), 0.0)
        applied.append(parts.advance().throttle)
    assert applied == drive(LatencyInTheLoop(0.05, 100.0), 8)[0]


def test_what_was_measured_is_charged_where_nothing_is_injected() -> None:
    assert drive(LatencyInTheLoop(0.05), 4, took_ms=50.0) == ([0.0, 1.0, 2.0, 3.0], 4)
    assert drive(LatencyInTheLoop(0.05), 3, took_ms=24.0) == ([1.0, 2.0, 3.0], 3)
    assert drive(LatencyInTheLoop(0.05), 3, took_ms=26.0) == ([0.0, 1.0, 2.0], 3)


@pytest.mark.parametrize("arguments", [(0.0,), (0.05, -1.0), (0.05, float("nan"))])
def test_bad_arguments_are_refused(arguments: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="step_s"):
        LatencyInTheLoop(*arguments)
