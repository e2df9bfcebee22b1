"""A rate limit for the log: so many lines of one kind a second, and a count of the rest."""

import logging
import threading
import time
from collections import Counter

LINES_PER_S = 100
MAX_KINDS = 1000
"""Kinds of lines that are remembered."""

log = logging.getLogger(__name__)


class Budget:
    """The lines of one kind that this second still allows; one line counts the others."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._until = 0.0
        self._left = 0
        self._omitted: Counter[str] = Counter()

    def take(self, detail: str = "") -> bool:
        """Return whether a line may be written; if not, count it under `detail`."""
        now = time.monotonic()
        if now >= self._until:
            self._until = now + 1.0
            self._left = LINES_PER_S
        if self._left:
            self._left -= 1
            return True
        if not self._omitted:
            timer = threading.Timer(self._until - now, self._tell)
            timer.daemon = True
            timer.start()
        self._omitted[detail] += 1
        return False

    def _tell(self) -> None:
        omitted, self._omitted = self._omitted, Counter()
        details = {name: count for name, count in sorted(omitted.items()) if name}
        shown = "".join(f", {count} of them {name}" for name, count in details.items())
        log.warning(
            "left out %d further lines: %s%s",
            *(omitted.total(), self._kind, shown),
            extra={"omitted": omitted.total(), **({"omitted_of": details} if details else {})},
        )


class LogRateLimit(logging.Filter):
    """Lets lines pass within a budget for each logger and message, whatever the arguments are.

    The logger `budgeted` has budgets of its own.
    """

    def __init__(self, budgeted: str) -> None:
        super().__init__()
        self._budgeted = budgeted
        self._budgets: dict[tuple[str, str], Budget] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line may be written."""
        if record.name in (self._budgeted, __name__):
            return True
        key = (record.name, str(record.msg))
        budget = self._budgets.get(key)
        if budget is None:
            if len(self._budgets) >= MAX_KINDS:
                self._budgets.clear()
            budget = self._budgets[key] = Budget(f"{record.name}: {record.msg}")
        return budget.take()
