"""The access log: one line for an answered request, within a budget."""

import logging
from typing import TYPE_CHECKING

from gateway.api.paths import METRICS, PROBES
from gateway.config.live import LiveSettings
from gateway.observability.log_rate_limit import Budget

if TYPE_CHECKING:
    from gateway.observability.exchange import Exchange

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
        self, exchange: "Exchange", status: int, seconds: float, error: str | None
    ) -> None:
        """Log the answer to a request, which took `seconds`; `error` is its code, if it is one."""
        failed = status >= 400
        if self._live.now.access_log == "none" or not (failed or self.all):
            return
        level = logging.WARNING if status >= 500 else logging.INFO
        if exchange.route in _QUIET:
            level = logging.DEBUG
        if not log.isEnabledFor(level) or not self._budgets[failed].take(str(status)):
            return
        latency_ms = round(seconds * 1000, 3)
        fields = {
            "request_id": exchange.request_id,
            "route": exchange.route,
            "method": exchange.method,
            "status": status,
            "version": exchange.version,
            "latency_ms": latency_ms,
            "error": error,
            "trace_id": None if exchange.trace is None else exchange.trace.id,
        }
        given = {name: value for name, value in fields.items() if value is not None}
        log.log(
            level,
            "%s %s %d in %.3f ms, %s, request %s",
            *(exchange.method, exchange.route, status, latency_ms),
            *(error or exchange.version or "no version", exchange.request_id),
            extra=given,
        )
