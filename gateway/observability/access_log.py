"""The access log: one line for an answered request, within a budget."""

import logging
from typing import TYPE_CHECKING

from gateway.api.paths import METRICS, PROBES
from gateway.config.live import LiveSettings
from gateway.observability.log_rate_limit import Budget

if TYPE_CHECKING:
    from gateway.observability.tracing import Trace

_QUIET = PROBES | METRICS

log = logging.getLogger(__name__)


class AccessLog:
    """Logs answers: errors, all or none, as `ACCESS_LOG` says.

    The level is `warning` from status 500 on, else `info`. It is `debug` for probes and `/metrics`:
    the cause of their errors has a log line of its own.
    """

    def __init__(self, live: LiveSettings) -> None:
        self._live = live
        self._budgets = (Budget("answers"), Budget("errors"))

    @property
    def all(self) -> bool:
        """Whether answers that are no errors are logged, too."""
        return self._live.now.access_log == "all"

    def answered(
        self,
        route: str,
        method: str,
        status: int,
        seconds: float,
        request_id: str,
        version: str | None = None,
        error: str | None = None,
        trace: "Trace | None" = None,
    ) -> None:
        """Log one answer; `route` is a template, never the raw path."""
        failed = status >= 400
        if self._live.now.access_log == "none" or not (failed or self.all):
            return
        level = logging.WARNING if status >= 500 else logging.INFO
        if route in _QUIET:
            level = logging.DEBUG
        if not log.isEnabledFor(level) or not self._budgets[failed].take(str(status)):
            return
        latency_ms = round(seconds * 1000, 3)
        fields = {
            "request_id": request_id,
            "route": route,
            "method": method,
            "status": status,
            "version": version,
            "latency_ms": latency_ms,
            "error": error,
            "trace_id": None if trace is None else trace.id,
        }
        given = {name: value for name, value in fields.items() if value is not None}
        log.log(
            level,
            "%s %s %d in %.3f ms, %s, request %s",
            *(method, route, status, latency_ms, error or version or "no version", request_id),
            extra=given,
        )
