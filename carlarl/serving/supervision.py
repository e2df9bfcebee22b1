"""Keeping a part of the service running: it is started again, with growing pauses."""

import time
from collections.abc import Callable

from carlarl.errors import CommandError
from carlarl.serving.child_process import ChildProcess
from converters.errors import ConversionError

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
HEALTH_S = 60.0
"""How long a part must work until its earlier failures are forgotten."""
START_TIMEOUT_S = 60.0
"""How long a part may take until it first works."""
HUNG_S = 15.0
"""How long a part that has worked may do nothing, although its process runs."""


class ServeError(CommandError):
    """Serving can't start or can't go on."""


class Keeper:
    """Keeps one part running: starts it at the first `look`, and again when it has failed."""

    def __init__(
        self, start: Callable[[], ChildProcess], tries: int, say: Callable[[str], None]
    ) -> None:
        """Take how to start the part, and how often in a row it may be started again.

        `say` gets what the user should read.
        """
        self._start = start
        self._tries = tries
        self._say = say
        self.part: ChildProcess | None = None
        """The part, or None while it does not run."""
        self._falls = 0
        self._due = 0.0
        self._worked_before = False
        self.since: float | None = None
        """When it was started (time.monotonic), or None while it does not run."""
        self._works_since: float | None = None

    def look(self) -> None:
        """Start the part if that is due, and end it if it has failed.

        Raises ServeError if it failed too often. A part that has never worked and ends by itself
        would do so again, so it is not started again. Triton's own crashes are different: a signal
        ends them.
        """
        if self.part is None:
            if time.monotonic() >= self._due:
                self._begin()
        elif (reason := self.part.fallen()) is not None:
            if not self._worked_before and (self.part.exit_code() or 0) > 0:
                raise ServeError(reason)
            self.fell(reason)

    def works(self) -> None:
        """Note that the part was seen at work."""
        now = time.monotonic()
        self._worked_before = True
        self._works_since = self._works_since or now
        if now > self._works_since + HEALTH_S:
            self._falls = 0

    def overdue(self, last: float, now: float) -> bool:
        """Whether a part that was last seen at work at `last` should have worked again by `now`."""
        if self.since is None:
            return False
        if self._works_since is None:
            return now > self.since + START_TIMEOUT_S
        return now > last + HUNG_S

    def fell(self, reason: str) -> None:
        """End the part and start it again after a pause. Raises ServeError if it fell too often."""
        self.stop(at_once=True)
        reason = reason.rstrip()
        if self._falls == self._tries:
            told = f"\nit was started again {self._tries} times in a row; giving up"
            raise ServeError(reason + (told if self._tries else ""))
        pause = min(FIRST_PAUSE_S * 2**self._falls, LONGEST_PAUSE_S)
        self._falls += 1
        self._say(f"{reason}\nstarting it again in {pause:g} s ({self._falls} of {self._tries})")
        self._due = time.monotonic() + pause

    def stop(self, *, at_once: bool = False) -> None:
        """End the part if it runs: in order, or `at_once`."""
        part, self.part, self.since, self._works_since = self.part, None, None, None
        if part is not None:
            part.stop(at_once=at_once)

    def _begin(self) -> None:
        try:
            self.part = self._start()
        except (OSError, CommandError, ConversionError) as error:
            if self._worked_before:
                self.fell(str(error))
            elif isinstance(error, OSError):
                raise ServeError(f"it can't be started: {error}") from None
            else:
                raise
        else:
            self.since = time.monotonic()
