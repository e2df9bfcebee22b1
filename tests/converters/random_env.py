"""An environment without a world, to train and save policies of any spaces."""

from __future__ import annotations

from typing import Any

import gymnasium


class Random(gymnasium.Env[Any, Any]):
    """Observations and rewards by chance; an episode has ten steps."""

    def __init__(self, observation: Any, action: Any) -> None:
        self.observation_space, self.action_space = observation, action
        self.steps = 0

    def reset(self, **_: Any) -> Any:
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps > 9, False, {}
