"""Joined calls: requests that wait while Triton works travel together in the next call."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from gateway.errors import DeadlineExceeded, GatewayError, InferenceFailed, ResourceExhausted
from gateway.metrics import Metrics
from gateway.rows import ACTION_BYTES, Rows
from gateway.triton import Triton

if TYPE_CHECKING:
    from gateway.traces import Trace, Traces

LATE = "no answer from Triton within the deadline"
CONGESTED = "too many requests are waiting"
Gone = Callable[[], bool]

PATIENCE = 0.5
"""Share of its time that a request may find the line ahead of it to have waited."""
LEAST_CALL_S = 0.25
"""How long a call keeps its place at least: Triton goes on with it, whoever stops waiting."""


@dataclass(eq=False, slots=True)
class _Waiter:
    """Rows of one request that fit into one call, and whoever waits for their actions."""

    rows: Rows
    since: float
    deadline: float
    gone: Gone
    actions: asyncio.Future[bytes]
    trace: "Trace | None" = None


@dataclass(eq=False, slots=True)
class Line:
    """What waits for one model, and how many calls of it are under way."""

    model: str
    max_rows: int
    waiting: deque[_Waiter] = field(default_factory=deque)
    calls: int = 0
    rows: int = 0
    call_s: float = 0.0

    def congested(self, now: float, budget_s: float, ahead: int = 0) -> bool:
        """Whether what is to be answered within `budget_s` from `now` would likely be late.

        It is where the first in the line has waited for half of that already, or where the calls
        that the line needs, and `ahead` rows that come before, take as long, as calls took lately.
        """
        wait_s = (self.rows + ahead) / self.max_rows * self.call_s / max(1, self.calls)
        if self.waiting:
            wait_s = max(wait_s, now - self.waiting[0].since)
        return wait_s > budget_s * PATIENCE

    def called(self, seconds: float) -> None:
        """Note how long a call took."""
        self.call_s += (seconds - self.call_s) * 0.2


class Joiner:
    """Sends requests to Triton, as few calls at a time as `calls`, each as full as may be.

    When a call is free a request leaves at once; there is no timer. Requests for different
    models never share a call. A request larger than a call is cut up and put together again.
    """

    def __init__(
        self,
        triton: Triton,
        metrics: Metrics,
        calls: int,
        max_waiting: int,
        traces: "Traces | None" = None,
    ) -> None:
        """Allow so many calls of one model at a time, and observations waiting in all."""
        self._traces = traces
        self._triton = triton
        self._metrics = metrics
        self.waiting = 0
        """Observations in all lines."""
        self._lines: dict[str, Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.limit(calls, max_waiting)

    async def infer(
        self,
        model: str,
        max_rows: int,
        rows: Rows,
        deadline: float,
        gone: Gone,
        since: float | None = None,
    ) -> bytes:
        """Give the actions of `rows`, `ACTION_BYTES` each, before `deadline` (perf_counter).

        `gone` says whether nobody waits for them any more; such rows are not sent. `since` is for
        one row that comes in the place of another, gone from the front of the line, which had
        waited since then: it goes to the front, or it might never get there. Raises
        ResourceExhausted where too many observations wait already, or for too long,
        DeadlineExceeded and ClientDisconnect where it is too late or the caller has gone, and
        what `Triton.infer` raises.
        """
        line = self._lines.get(model)
        if line is None:
            line = self._lines[model] = Line(model, max_rows)
        now = time.perf_counter()
        left_s = deadline - now
        if left_s <= 0:
            self._metrics.expired()
            raise DeadlineExceeded(LATE)
        if since is None and line.congested(now, left_s):
            raise ResourceExhausted(CONGESTED)
        loop = asyncio.get_running_loop()
        trace = None if self._traces is None else self._traces.current()
        waiters = [
            _Waiter(piece, since or now, deadline, gone, loop.create_future(), trace)
            for piece in rows.split(max_rows)
        ]
        free = max(0, self._calls - line.calls) if not line.waiting else 0
        if self.waiting + sum(one.rows.count for one in waiters[free:]) > self._max_waiting:
            raise ResourceExhausted("too many observations are waiting")
        if free and len(waiters) == 1 and left_s >= LEAST_CALL_S:
            return await self._lone(line, waiters[0])
        for waiter in waiters[:free]:
            self._send(line, [waiter])
        for waiter in waiters[free:]:
            (line.waiting.append if since is None else line.waiting.appendleft)(waiter)
            self.waiting += waiter.rows.count
            line.rows += waiter.rows.count
        expiry = loop.call_later(left_s, _expire, waiters)
        try:
            if len(waiters) == 1:
                return await waiters[0].actions
            return b"".join(await asyncio.gather(*(waiter.actions for waiter in waiters)))
        finally:
            expiry.cancel()
            for waiter in waiters:
                waiter.actions.cancel()

    def limit(self, calls: int, max_waiting: int) -> None:
        """Allow other numbers from now on; calls that are under way end as they are."""
        self._calls = calls
        self._max_waiting = max_waiting
        self._metrics.queue_limit.set(max_waiting)
        for line in self._lines.values():
            while line.waiting and line.calls < calls:
                self._send(line, self._next(line))

    def congested(self, model: str, rows: int, now: float, budget_s: float, ahead: int) -> bool:
        """Whether `infer` would refuse what comes for `model` at `now`, behind `ahead` rows."""
        line = self._lines.get(model)
        if line is None:
            return False
        full = bool(line.waiting) and self.waiting + ahead + rows > self._max_waiting
        return full or line.congested(now, budget_s, ahead)

    async def close(self) -> None:
        """Wait for the calls that are under way."""
        await asyncio.gather(*self._tasks)

    async def _lone(self, line: Line, waiter: _Waiter) -> bytes:
        """Make the call of a request that need not wait, without a task of its own."""
        line.calls += 1
        try:
            await self._answer(line, [waiter])
        finally:
            line.calls -= 1
            if line.waiting and line.calls < self._calls:
                self._send(line, self._next(line))
        return waiter.actions.result()

    def _send(self, line: Line, waiters: list[_Waiter]) -> None:
        if not waiters:  # all were gone: a call without rows would hide that one is free
            return
        line.calls += 1
        task = asyncio.create_task(self._call(line, waiters))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(self, line: Line, waiters: list[_Waiter]) -> None:
        """Make calls until nothing waits."""
        try:
            while waiters:
                await self._answer(line, waiters)
                waiters = self._next(line) if line.calls <= self._calls else []
        finally:
            line.calls -= 1
            for waiter in waiters:  # of a call that broke off
                _settle(waiter, InferenceFailed("the call was broken off"))

    def _next(self, line: Line) -> list[_Waiter]:
        """Take what fits into one call from the front of the line, in order."""
        taken: list[_Waiter] = []
        room = line.max_rows
        now = time.perf_counter()
        while line.waiting and line.waiting[0].rows.count <= room:
            waiter = line.waiting.popleft()
            self.waiting -= waiter.rows.count
            line.rows -= waiter.rows.count
            if waiter.deadline <= now:
                self._metrics.expired()
                _settle(waiter, DeadlineExceeded(LATE))
                continue
            if waiter.actions.done():
                continue
            if waiter.gone():
                _settle(waiter, ClientDisconnect())
                continue
            taken.append(waiter)
            room -= waiter.rows.count
        return taken

    async def _answer(self, line: Line, waiters: list[_Waiter]) -> None:
        """Make one call and hand each waiter its share; a bad request fails alone."""
        rows = Rows.join([waiter.rows for waiter in waiters])
        start = time.perf_counter()
        timeout = max(LEAST_CALL_S, max(waiter.deadline for waiter in waiters) - start)
        traced = None
        if self._traces is not None and any(waiter.trace for waiter in waiters):
            asked = [(waiter.trace, waiter.since) for waiter in waiters]
            traced = self._traces.call(line.model, rows.count, asked)
        try:
            headers = () if traced is None else (traced.headers,)
            actions = await self._triton.infer(line.model, rows, timeout, *headers)
        except GatewayError as error:
            if traced is not None:
                traced.end(error)
            if isinstance(error, InferenceFailed) and len(waiters) > 1:
                for waiter in waiters:
                    waiter.since = time.perf_counter()
                    await self._answer(line, [waiter])
            else:
                for waiter in waiters:
                    _settle(waiter, error)
            return
        if traced is not None:
            traced.end(None)
        seconds = time.perf_counter() - start
        line.called(seconds)
        self._metrics.called(rows.count, seconds, [start - one.since for one in waiters])
        start_byte = 0
        for waiter in waiters:
            stop_byte = start_byte + waiter.rows.count * ACTION_BYTES
            _settle(waiter, actions[start_byte:stop_byte])
            start_byte = stop_byte


def _settle(waiter: _Waiter, outcome: bytes | Exception) -> None:
    if waiter.actions.done():
        return
    if isinstance(outcome, bytes):
        waiter.actions.set_result(outcome)
    else:
        waiter.actions.set_exception(outcome)


def _expire(waiters: list[_Waiter]) -> None:
    for waiter in waiters:
        _settle(waiter, DeadlineExceeded(LATE))
