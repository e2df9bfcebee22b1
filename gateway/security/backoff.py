"""When callers that were refused are listened to again."""

import time

SHARE = 0.01
"""Share of the time that refusing takes at most; what the system does for it comes on top."""
LONGEST_S = 1.0
"""Not longer than callers are told to stay away: see `errors.RETRY_AFTER_S`."""


class Backoff:
    """Gives each connection on which a request was refused its turn to be read again.

    Reading and refusing cost a good part of what an answer does, which callers who ask again at
    once would take from those who are answered. So turns come one after the other, each as much
    later as refusing took, by `SHARE`: on a slow or busy machine later than on a fast one.
    """

    def __init__(self) -> None:
        """Begin with nobody refused."""
        self._turn = 0.0

    def pause_s(self, began: float) -> float:
        """Give the seconds until the turn of a connection that was refused from `began` to now.

        `began` is a time.perf_counter; the pause is `LONGEST_S` at most.
        """
        now = time.perf_counter()
        self._turn = min(max(now, self._turn) + (now - began) / SHARE, now + LONGEST_S)
        return self._turn - now
