"""How long a connection waits for its caller: one timer, however often the wait begins anew."""

import asyncio
import math
from collections.abc import Callable


class Patience:
    """Calls `end` once the last wait that began is over."""

    def __init__(self, loop: asyncio.AbstractEventLoop, end: Callable[[], None]) -> None:
        """Wait for nothing yet."""
        self._loop = loop
        self._end = end
        self._until = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def wait(self, seconds: float) -> None:
        """Wait for so long from now on."""
        self._until = until = self._loop.time() + seconds
        if self._timer is not None:
            if self._timer.when() <= until:
                return  # which looks again then
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._look)

    def stop(self) -> None:
        """Wait for nothing any more."""
        self._until = math.inf

    def cancel(self) -> None:
        """Let go of the timer, and of whoever waits."""
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
    """End nothing."""
