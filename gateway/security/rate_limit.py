"""A rate limit: one token bucket for each caller, counted in observations."""

import time
from collections.abc import Callable
from itertools import islice

PIECE_BYTES = 1 << 16
"""Each further piece of a body that is begun counts as one more observation."""
MAX_CALLERS = 10_000
"""Callers that are remembered."""


class RateLimit:
    """A bucket for each caller, of `burst` observations, filled again at `per_s`.

    A request passes where its caller's bucket holds at least one observation, and takes as many as
    it has, on credit if need be: a large one passes too, and is paid for before the next.
    """

    def __init__(
        self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Let each caller send `per_s` (above 0) observations a second, `burst` (1 up) at once."""
        self._spacing_s = 1 / per_s
        self._slack_s = (burst - 1) / per_s + 1e-6  # more than what rounding loses
        self._clock = clock
        self._full_at: dict[str, float] = {}  # when a caller's bucket will be full again

    def take(self, caller: str) -> float:
        """Let an observation pass and return 0, or return the seconds after which one would."""
        now = self._clock()
        full_at = max(self._full_at.get(caller, now), now)
        wait = full_at - now - self._slack_s
        if wait > 0:
            return wait
        if caller not in self._full_at and len(self._full_at) >= MAX_CALLERS:
            self._forget(now)
        self._full_at[caller] = full_at + self._spacing_s
        return 0.0

    def charge(self, caller: str, observations: int) -> None:
        """Take more from the bucket of a caller whose request has passed."""
        if caller in self._full_at:
            self._full_at[caller] += observations * self._spacing_s

    def _forget(self, now: float) -> None:
        """Make room: forget callers whose buckets are full, or the half that was first seen."""
        kept = {caller: at for caller, at in self._full_at.items() if at > now}
        if len(kept) >= MAX_CALLERS:
            kept = dict(islice(kept.items(), MAX_CALLERS // 2, None))
        self._full_at = kept
