"""Batching: requests that wait while Triton works travel together in the next call."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from gateway.api.errors import (
    DeadlineExceeded,
    ImagesRefused,
    InferenceFailed,
    ResourceExhausted,
    ServiceUnavailable,
)
from gateway.observability.metrics import Metrics
from gateway.triton.batch import Rows
from gateway.triton.client import Triton

if TYPE_CHECKING:
    from gateway.observability.tracing import Trace, Tracing

log = logging.getLogger(__name__)

LATE = "no answer from Triton within the deadline"
Outcome = bytes | Exception
"""What Triton gave for some rows, row by row, or why there is nothing."""

PATIENCE = 0.5
"""A request is refused if the queue ahead of it takes more than this share of its time."""
LEAST_CALL_S = 0.25
"""How long a call keeps its place at least: Triton goes on with it even if nobody waits."""


class Inference:
    """Rows of one request on their way to Triton; `settle` is called once, with their outcome.

    `deadline` and `since`, when they began to wait, are of `time.perf_counter`. `gone` says
    whether nobody waits for the rows any more; such rows are not sent.
    """

    __slots__ = ("deadline", "done", "gone", "rows", "settled", "since", "trace")

    def __init__(
        self,
        rows: Rows,
        deadline: float,
        done: Callable[[Outcome], None],
        *,
        gone: Callable[[], bool] | None = None,
        since: float | None = None,
        trace: "Trace | None" = None,
    ) -> None:
        """Call `done` with the outcome."""
        self.rows = rows
        self.deadline = deadline
        self.done = done
        self.gone = gone
        self.since = since
        self.trace = trace
        self.settled = False

    def settle(self, outcome: Outcome) -> None:
        """Hand over the outcome, unless that happened already or nobody waits."""
        if not self.settled:
            self.settled = True
            try:
                self.done(outcome)
            except Exception:  # others in the same call must get theirs
                log.exception("an outcome could not be handed over")

    def abandon(self) -> None:
        """Note that nobody waits: rows that were not sent yet are never sent."""
        self.settled = True


class _Parts:
    """Puts the outcomes of a request's parts together."""

    def __init__(self, whole: Inference, pieces: list[Rows], since: float) -> None:
        self._whole = whole
        self._actions = [b""] * len(pieces)
        self._missing = len(pieces)
        self.inferences = [
            Inference(
                piece,
                whole.deadline,
                lambda outcome, index=index: self._take(index, outcome),  # type: ignore[misc]
                gone=self._is_gone,
                since=since,
                trace=whole.trace,
            )
            for index, piece in enumerate(pieces)
        ]

    def _is_gone(self) -> bool:
        return self._whole.settled or (self._whole.gone is not None and self._whole.gone())

    def _take(self, index: int, outcome: Outcome) -> None:
        if isinstance(outcome, Exception):
            if isinstance(outcome, ImagesRefused):
                before = sum(one.rows.count for one in self.inferences[:index])
                outcome = outcome.of(-before, self._whole.rows.count) or outcome
            for one in self.inferences:
                one.abandon()
            self._whole.settle(outcome)
            return
        self._actions[index] = outcome
        self._missing -= 1
        if not self._missing:
            self._whole.settle(b"".join(self._actions))


class ModelQueue:
    """What waits for one model, and its calls that are under way."""

    def __init__(self, model: str) -> None:
        """Start empty."""
        self.model = model
        self.max_rows = 1
        """Rows of one call, at most."""
        self.waiting: deque[Inference] = deque()
        self.batches: list[list[Inference]] = []
        """The inferences of each call that is under way."""
        self.rows = 0
        """Rows that wait."""
        self._call_s = 0.0
        self._expiry: asyncio.TimerHandle | None = None
        self._expires_at = math.inf

    def congested(self, now: float, budget_s: float) -> bool:
        """Return whether a request with `budget_s` seconds from `now` would likely be late.

        That is so if the first request in the queue has already waited for half of that time, or
        if the calls that the queue needs would take that long, as calls took lately.
        """
        wait_s = self.rows / self.max_rows * self._call_s / max(1, len(self.batches))
        if self.waiting:
            since = self.waiting[0].since
            wait_s = max(wait_s, now - (since if since is not None else now))
        return wait_s > budget_s * PATIENCE

    def called(self, seconds: float) -> None:
        """Note how long a call took."""
        self._call_s += (seconds - self._call_s) * 0.2

    def expire_by(self, deadline: float, now: float) -> None:
        """Settle what is late from `deadline` on; one timer serves all that wait."""
        if deadline < self._expires_at:
            if self._expiry is not None:
                self._expiry.cancel()
            self._expires_at = deadline
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_later(max(0.0, deadline - now), self._expire)

    def _expire(self) -> None:
        self._expiry, self._expires_at = None, math.inf
        now = time.perf_counter()
        pending = [one for one in self.waiting if not one.settled]
        pending += [one for batch in self.batches for one in batch if not one.settled]
        for one in pending:
            if one.deadline <= now:
                one.settle(DeadlineExceeded(LATE))
        later = [one.deadline for one in pending if not one.settled]
        if later:
            self.expire_by(min(later), now)


class Batcher:
    """Sends requests to Triton: at most `calls` calls at a time, each as full as possible.

    When a call is free a request leaves at once; no timer delays it. Requests for different
    models never share a call. A request larger than a call is cut up and put together again.
    """

    def __init__(
        self,
        triton: Triton,
        metrics: Metrics,
        calls: int,
        max_waiting: int,
        traces: "Tracing | None" = None,
    ) -> None:
        """Allow so many calls of one model at a time, and observations waiting in all."""
        self._traces = traces
        self._triton = triton
        self._metrics = metrics
        self.waiting = 0
        """Observations in all queues."""
        self._queues: dict[str, ModelQueue] = {}
        self.limit(calls, max_waiting)

    def submit(self, model: str, max_rows: int, inference: Inference) -> None:
        """Send `inference` to `model` in calls of at most `max_rows` rows, or let it wait.

        Where it has waited before (`since`), it takes the place of a row that is gone, at the front
        of the queue. Settles it with the actions, or with ResourceExhausted where too many
        observations wait already or for too long, DeadlineExceeded where it is late,
        ClientDisconnect where it is `gone`, and what `Triton.infer` raises.
        """
        queue = self._queues.get(model)
        if queue is None:
            queue = self._queues[model] = ModelQueue(model)
        queue.max_rows = max_rows  # which may change where the model is loaded again
        now = time.perf_counter()
        left_s = inference.deadline - now
        first = inference.since is not None
        if left_s <= 0:
            self._metrics.expired.inc()
            inference.settle(DeadlineExceeded(LATE))
            return
        if not first and queue.congested(now, left_s):
            inference.settle(ResourceExhausted("too many requests are waiting"))
            return
        if inference.since is None:
            inference.since = now
        queue.expire_by(inference.deadline, now)
        free = 0 if queue.waiting else max(0, self._calls - len(queue.batches))
        rows = inference.rows
        if free and rows.count <= max_rows:
            self._send(queue, [inference])
            return
        if rows.count <= max_rows:
            parts = [inference]
        else:
            parts = _Parts(inference, rows.split(max_rows), inference.since).inferences
        waiting = rows.count - min(rows.count, free * max_rows)
        if self.waiting + waiting > self._max_waiting:
            inference.settle(ResourceExhausted("too many observations are waiting"))
            return
        self.waiting += waiting
        queue.rows += waiting
        for one in parts[free:]:
            (queue.waiting.appendleft if first else queue.waiting.append)(one)
        for one in parts[:free]:
            self._send(queue, [one])

    def limit(self, calls: int, max_waiting: int) -> None:
        """Allow other numbers from now on; calls that are under way end as they are."""
        self._calls = calls
        self._max_waiting = max_waiting
        self._metrics.queue_limit.set(max_waiting)
        for queue in self._queues.values():
            while queue.waiting and len(queue.batches) < calls:
                self._send(queue, self._next(queue))

    def close(self) -> None:
        """Refuse all requests that still wait, in a queue or for Triton."""
        for queue in self._queues.values():
            for one in [*queue.waiting, *(one for batch in queue.batches for one in batch)]:
                one.settle(ServiceUnavailable("the gateway is stopping"))

    def _send(self, queue: ModelQueue, batch: list[Inference]) -> None:
        if batch:  # else all were gone, and a call without rows would hide that one is free
            queue.batches.append(batch)
            self._call(queue, batch, batch, [])

    def _call(
        self,
        queue: ModelQueue,
        batch: list[Inference],
        part: list[Inference],
        rest: list[Inference],
    ) -> None:
        """Call Triton for `part` of a batch; what is in `rest` is called for later, one by one."""
        rows = Rows.join([one.rows for one in part])
        start = time.perf_counter()
        timeout_s = max(LEAST_CALL_S, max(one.deadline for one in part) - start)
        traced = None
        if self._traces is not None and any(one.trace for one in part):
            asked = [(one.trace, one.since or start) for one in part]
            traced = self._traces.call(queue.model, rows.count, asked)

        def answered(outcome: Outcome) -> None:
            if traced is not None:
                traced.end(outcome if isinstance(outcome, Exception) else None)
            self._answered(queue, batch, part, rest, start, outcome)

        try:
            headers = () if traced is None else (traced.headers,)
            self._triton.call(queue.model, rows, timeout_s, answered, *headers)
        except Exception:
            log.exception("the call of %s broke off", queue.model)
            self._answered(queue, batch, batch, [], start, _BrokenOff("the call was broken off"))

    def _answered(
        self,
        queue: ModelQueue,
        batch: list[Inference],
        part: list[Inference],
        rest: list[Inference],
        start: float,
        outcome: Outcome,
    ) -> None:
        """Hand each inference its share; a bad request fails alone. Then the next batch leaves."""
        if isinstance(outcome, ImagesRefused):
            good = _without_refused(part, outcome)
            if good:
                self._call(queue, batch, good, rest)
                return
        elif isinstance(outcome, Exception):
            failed = isinstance(outcome, InferenceFailed) and not isinstance(outcome, _BrokenOff)
            if failed and len(part) > 1:
                rest = part  # from now on one by one
            else:
                for one in part:
                    one.settle(outcome)
        else:
            seconds = time.perf_counter() - start
            queue.called(seconds)
            row_bytes = part[0].rows.tensors.row_bytes
            rows = len(outcome) // row_bytes
            self._metrics.called(rows, seconds, [start - (one.since or start) for one in part])
            start_byte = 0
            for one in part:
                stop_byte = start_byte + one.rows.count * row_bytes
                one.settle(outcome[start_byte:stop_byte])
                start_byte = stop_byte
        rest = [one for one in rest if not one.settled]
        if rest:
            rest[0].since = time.perf_counter()
            self._call(queue, batch, rest[:1], rest[1:])
            return
        queue.batches.remove(batch)
        if len(queue.batches) < self._calls:
            following: list[Inference] = []
            queue.batches.append(following)  # keeps the place while the next ones are taken
            following += self._next(queue)
            if following:
                self._call(queue, following, following, [])
            else:
                queue.batches.remove(following)

    def _next(self, queue: ModelQueue) -> list[Inference]:
        """Take what fits into one call from the front of the queue, in order."""
        taken: list[Inference] = []
        room = queue.max_rows
        now = time.perf_counter()
        while queue.waiting and (not taken or queue.waiting[0].rows.count <= room):
            one = queue.waiting.popleft()
            self.waiting -= one.rows.count
            queue.rows -= one.rows.count
            if one.settled:
                if one.deadline <= now:
                    self._metrics.expired.inc()
            elif one.deadline <= now:
                self._metrics.expired.inc()
                one.settle(DeadlineExceeded(LATE))
            elif one.gone is not None and one.gone():
                one.settle(ClientDisconnect())
            else:
                taken.append(one)
                room -= one.rows.count
        return taken


def _without_refused(part: list[Inference], refused: ImagesRefused) -> list[Inference]:
    """Settle the inferences of which an image can't be decoded; return the others that wait."""
    good = []
    start = 0
    for one in part:
        error = refused.of(start, one.rows.count)
        start += one.rows.count
        if error is not None:
            one.settle(error)
        elif not one.settled:
            good.append(one)
    return good


class _BrokenOff(InferenceFailed):
    """A call that could not even be made."""
