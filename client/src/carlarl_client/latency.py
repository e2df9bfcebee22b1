"""Latency in the loop: what a simulation that waits for its answers would hide."""

from __future__ import annotations

import math
from typing import Callable

from carlarl_client.types import Action

Ask = Callable[[], "tuple[Action, float]"]


class LatencyInTheLoop:
    """Charges answers their time in a simulation that stands still while it waits for them.

    An answer that took n simulation steps is applied n steps after its observation; until then the
    action before it goes on, and nothing new is asked. The step that has the answer asks again.
    n is rounded to the nearest, so a simulation step should be no longer than the latencies that
    are to be told apart.

    Attributes:
        charged_steps: steps so far whose action was an earlier observation's.
    """

    def __init__(self, step_s: float, latency_ms: float | None = None) -> None:
        """Take the length of a simulation step in seconds.

        Args:
            step_s: such as `fixed_delta_seconds` of a CARLA world.
            latency_ms: charged for every answer in the place of what it took.
        """
        if not step_s > 0 or (latency_ms is not None and not 0 <= latency_ms < math.inf):
            raise ValueError("step_s is more than 0, latency_ms 0 or more")
        self._step_ms = step_s * 1000
        self._latency_ms = latency_ms
        self._current = Action(0.0, 0.0, 0.0)
        self._coming = self._current
        self._left = 0
        self.charged_steps = 0

    @property
    def asks(self) -> bool:
        """Whether no answer is under way, so that this step has to ask."""
        return self._left == 0

    def answered(self, action: Action, took_ms: float) -> None:
        """Take the answer to what this step asked, and the milliseconds that it took."""
        self._current = self._coming
        self._coming = action
        charged = took_ms if self._latency_ms is None else self._latency_ms
        self._left = math.floor(charged / self._step_ms + 0.5)
        if self._left == 0:
            self._current = action

    def advance(self) -> Action:
        """Return the action of this simulation step, and go on to the next."""
        if self._left > 0:
            self._left -= 1
            self.charged_steps += 1
        return self._current

    def step(self, ask: Ask) -> Action:
        """Do all three: `ask` gives the action for what is seen now and the milliseconds it took.

        With the asyncio client: `if loop.asks: loop.answered(*await ask())`, then `loop.advance()`.
        """
        if self.asks:
            self.answered(*ask())
        return self.advance()
