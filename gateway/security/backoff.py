"""How long a connection is not read after one of its requests was refused."""

import time

SHARE = 0.01
"""Largest share of the process's time that refusing may take, without the kernel's part."""
LONGEST_S = 1.0
"""Not longer than callers are told to stay away: see `errors.RETRY_AFTER_S`."""


class Backoff:
    """Give each refused connection a turn, at which it is read again.

    Refusing a request costs nearly as much as answering one, and some callers ask again at once.
    So the turns come one after the other: each is later by the time that refusing took, divided by
    `SHARE`. A slow or busy machine makes callers wait longer than a fast one.
    """

    def __init__(self) -> None:
        self._turn = 0.0

    def pause_s(self, began: float) -> float:
        """Return the seconds until the turn of a connection; refusing it took from `began` to now.

        `began` is a time.perf_counter; the pause is `LONGEST_S` at most.
        """
        now = time.perf_counter()
        self._turn = min(max(now, self._turn) + (now - began) / SHARE, now + LONGEST_S)
        return self._turn - now
