"""A time limit that is cheap to restart: it needs one timer, however often it starts anew."""

import asyncio
import math
from collections.abc import Callable


class Patience:
    """Calls `end` when the wait that began last is over."""

    def __init__(self, loop: asyncio.AbstractEventLoop, end: Callable[[], None]) -> None:
        self._loop = loop
        self._end = end
        self._until = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def wait(self, seconds: float) -> None:
        """Start a new wait; the wait before it no longer counts."""
        self._until = until = self._loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= until:
                return  # `_look` waits for the rest
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._look)

    def stop(self) -> None:
        """End the wait without calling `end`."""
        self._until = math.inf

    def cancel(self) -> None:
        """Drop the timer and `end`, for good."""
        self._end = _nothing
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        left_s = self._until - self._loop.time()
        if left_s <= 0:
            self._until = math.inf
            self._end()
        elif left_s < math.inf:
            self._timer = self._loop.call_later(left_s, self._look)


def _nothing() -> None:
    """Do nothing."""
