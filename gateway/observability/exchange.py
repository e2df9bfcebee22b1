"""One request, or one step of a stream, from its arrival to its answer; it is counted once."""

import time
from dataclasses import dataclass
from random import getrandbits
from typing import TYPE_CHECKING

from gateway.observability.access_log import AccessLog
from gateway.observability.metrics import Metrics

if TYPE_CHECKING:
    from gateway.observability.tracing import Trace, Tracing


@dataclass(frozen=True, slots=True)
class Observers:
    """Where each answer is recorded: metrics, access log and, where they are sent, traces."""

    metrics: Metrics
    access: AccessLog
    traces: "Tracing | None" = None


class Exchange:
    """The record of one request and its answer.

    `route` is a path of the API or "unmatched", never the raw path; `arrived` is of
    `time.perf_counter`. `version` is the policy version that answers, once it is known. A request
    without a valid id of its own gets a random one.
    """

    __slots__ = (
        "_observers", "arrived", "answered", "method", "request_id", "route", "trace", "version"
    )  # fmt: skip

    def __init__(
        self,
        observers: Observers,
        route: str,
        method: str,
        arrived: float,
        request_id: str | None = None,
    ) -> None:
        self._observers = observers
        self.route = route
        self.method = method
        self.arrived = arrived
        self.request_id = request_id or f"{getrandbits(128):032x}"
        self.version: str | None = None
        self.trace: Trace | None = None
        self.answered = False

    def start_trace(self, headers: dict[str, str]) -> None:
        """Begin the trace, where traces are sent and this request is sampled.

        `headers` are those of the W3C's trace context.
        """
        traces = self._observers.traces
        if traces is not None:
            self.trace = traces.begin(self.method, self.route, headers)

    def answer(self, status: int, error: str | None = None) -> float:
        """Count and log the answer, end the trace; return the seconds since the arrival."""
        self.answered = True
        seconds = time.perf_counter() - self.arrived
        observers = self._observers
        observers.metrics.answered(self.route, self.method, status, seconds, error)
        if status >= 400 or observers.access.all:
            observers.access.answered(self, status, seconds, error)
        if self.trace is not None:
            self.trace.end(status, self.request_id, self.version, error)
        return seconds

    def abandon(self) -> None:
        """End the trace of a request whose caller has gone."""
        if self.trace is not None and not self.answered:
            self.trace.end(None, self.request_id, self.version, None)
