"""Keeping a part of the service running: started again where it fell, with growing pauses."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from carlarl.errors import CommandError
from converters.errors import ConversionError

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
HEALTH_S = 60.0
"""How long a part must work until its earlier falls are forgotten."""


class ServeError(CommandError):
    """Serving can't start or can't go on; the text is what the user is told."""


class Part(Protocol):
    """A part that was started: Triton or the gateway."""

    def fallen(self) -> str | None:
        """Say why it must be started again; None while it need not."""

    def exit_code(self) -> int | None:
        """Give the exit status, below 0 where a signal ended it, None while it runs."""

    def stop(self, *, at_once: bool = False) -> None:
        """End it and whatever it left, `at_once` or in order."""


class Keeper:
    """Keeps one part running: starts it at the first `look`, and again when it has fallen."""

    def __init__(self, start: Callable[[], Part], tries: int, say: Callable[[str], None]) -> None:
        """Take how to start the part, and how often in a row it may be started again.

        `say` gets what the user should read.
        """
        self._start = start
        self._tries = tries
        self._say = say
        self.part: Part | None = None
        """The part, None while it does not run."""
        self._falls = 0
        self._due = 0.0
        self._worked_before = False
        self.since: float | None = None
        """When it was started (time.monotonic), None while it is not."""
        self.works_since: float | None = None
        """When it was first seen at work since then."""

    def look(self) -> None:
        """Start the part where that is due; end it where it has fallen.

        Raises ServeError where it fell once too often. A part that has never worked and ends by
        itself would do so again, so its first fall is the last; Triton's own crashes, which a
        signal ends, are not of that kind.
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
        self.works_since = self.works_since or now
        if now > self.works_since + HEALTH_S:
            self._falls = 0

    def fell(self, reason: str) -> None:
        """End the part, to be started again after a pause; ServeError where that was too often."""
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
        """End the part where it runs, `at_once` or in order."""
        part, self.part, self.since, self.works_since = self.part, None, None, None
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
