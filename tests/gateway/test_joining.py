"""What travels together, what waits, and what is never sent.

The server here is hand-written, because the order of arrivals has to be exact: it computes each
row from its input alone, as the real one does, and lets the test say when a call ends.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from gateway.api.errors import DeadlineExceeded, InferenceFailed, ResourceExhausted
from gateway.inference.batcher import Batcher, Inference, Outcome
from gateway.observability.metrics import Metrics
from gateway.triton.batch import Rows
from gateway.triton.client import Triton
from tests.gateway.driving import rows_of

BAD_SPEED = 66.0


class Steps(Triton):
    """Answers a row with (speed, 0, 0); each call waits until it is let go."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")
        self.calls: list[tuple[str, list[float]]] = []
        self.hold = asyncio.Event()

    def call(
        self, model: str, rows: Rows, timeout_s: float, done: Any, headers: bytes = b""
    ) -> None:
        def finished(task: asyncio.Task[bytes]) -> None:
            done(task.exception() or task.result())

        task = asyncio.ensure_future(self.infer(model, rows, timeout_s))
        task.add_done_callback(finished)

    async def infer(self, model: str, rows: Rows, timeout_s: float) -> bytes:
        speeds = [row[0] for row in struct.iter_unpack("<7f", rows.observations)]
        self.calls.append((model, speeds))
        await asyncio.wait_for(self.hold.wait(), timeout_s)
        if BAD_SPEED in speeds:
            raise InferenceFailed("a bad row")
        return b"".join(struct.pack("<3f", speed, 0, 0) for speed in speeds)


def rows(*speeds: float) -> Rows:
    return rows_of([{"speed": one, "steering": 0, "sensors": [0.5] * 5} for one in speeds])


def speeds_of(actions: bytes) -> list[float]:
    return [action[0] for action in struct.iter_unpack("<3f", actions)]


class Bench:
    """A batcher over `Steps`, and a short way to ask it."""

    def __init__(self, calls: int = 1, max_waiting: int = 1000, max_rows: int = 8) -> None:
        self.triton = Steps()
        self.batcher = Batcher(self.triton, Metrics(), calls, max_waiting)
        self.max_rows = max_rows

    def ask(
        self,
        *speeds: float,
        model: str = "m",
        timeout: float = 5.0,
        gone: Any = None,
        since: float | None = None,
    ) -> asyncio.Task[bytes]:
        return asyncio.ensure_future(
            self._ask(model, rows(*speeds), time.perf_counter() + timeout, gone, since)
        )

    async def _ask(
        self, model: str, rows: Rows, deadline: float, gone: Any, since: float | None
    ) -> bytes:
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            if isinstance(outcome, bytes):
                answer.set_result(outcome)
            else:
                answer.set_exception(outcome)

        inference = Inference(rows, deadline, done, gone=gone, since=since)
        self.batcher.submit(model, self.max_rows, inference)
        try:
            return await answer
        except asyncio.CancelledError:
            inference.abandon()
            raise

    async def sent_are(self, calls: int) -> None:
        """Wait until so many calls were sent; never more."""
        while len(self.sent) < calls:
            await asyncio.sleep(0.001)
        assert len(self.sent) == calls

    @property
    def sent(self) -> list[list[float]]:
        return [speeds for _, speeds in self.triton.calls]


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


def test_the_first_leaves_at_once_and_the_rest_travel_together() -> None:
    async def test() -> None:
        bench = Bench()
        asked = [bench.ask(1)]
        await asyncio.sleep(0)
        asked += [bench.ask(2), bench.ask(3, 4), bench.ask(5)]
        await asyncio.sleep(0.01)
        assert bench.sent == [[1]]
        bench.triton.hold.set()
        answers = await asyncio.gather(*asked)
        assert bench.sent == [[1], [2, 3, 4, 5]]
        assert [speeds_of(answer) for answer in answers] == [[1], [2], [3, 4], [5]]

    run(test())


def test_a_call_is_never_overfull_and_order_is_kept() -> None:
    async def test() -> None:
        bench = Bench()
        asked = [bench.ask(*range(10 * i, 10 * i + 5)) for i in range(5)]
        await asyncio.sleep(0)
        bench.triton.hold.set()
        answers = await asyncio.gather(*asked)
        assert [len(call) for call in bench.sent] == [5] * 5
        assert [speeds_of(a)[0] for a in answers] == [0, 10, 20, 30, 40]

    run(test())


def test_a_request_larger_than_a_call_is_cut_and_put_together() -> None:
    async def test() -> None:
        bench = Bench(calls=2)
        bench.triton.hold.set()
        answer = await bench.ask(*range(30))
        assert speeds_of(answer) == list(range(30))
        assert [len(call) for call in bench.sent] == [8, 8, 8, 6]

    run(test())


def test_models_never_share_a_call() -> None:
    async def test() -> None:
        bench = Bench()
        asked = [bench.ask(i, model=f"m{i % 2}") for i in range(10)]
        await asyncio.sleep(0)
        bench.triton.hold.set()
        await asyncio.gather(*asked)
        for model, speeds in bench.triton.calls:
            assert {int(speed) % 2 for speed in speeds} == {int(model[1])}
        assert len(bench.triton.calls) == 4

    run(test())


def test_other_numbers_of_calls_count_at_once_also_while_others_wait() -> None:
    async def test() -> None:
        bench = Bench(calls=1, max_rows=1)
        asked = [bench.ask(i) for i in range(12)]
        await bench.sent_are(1)
        bench.batcher.limit(3, 1000)
        await bench.sent_are(3)
        bench.batcher.limit(1, 1000)
        for done in range(1, 10):  # an answer lets the next one go, but for the two too many
            bench.triton.hold.set()
            bench.triton.hold = asyncio.Event()
            await bench.sent_are(3 + done)
        bench.triton.hold.set()
        answers = await asyncio.gather(*asked)
        assert [speeds_of(answer) for answer in answers] == [[i] for i in range(12)]
        bench.batcher.limit(1, 0)
        bench.triton.hold = asyncio.Event()
        first = bench.ask(1)
        await bench.sent_are(13)
        with pytest.raises(ResourceExhausted):
            await bench.ask(2)
        bench.triton.hold.set()
        await first

    run(test())


def test_no_more_calls_at_a_time_than_allowed() -> None:
    async def test() -> None:
        bench = Bench(calls=3)
        asked = [bench.ask(i) for i in range(9)]
        await asyncio.sleep(0.01)
        assert bench.sent == [[0], [1], [2]]
        bench.triton.hold.set()
        await asyncio.gather(*asked)
        assert len(bench.sent) == 4

    run(test())


def test_beyond_the_bound_refused_at_once() -> None:
    async def test() -> None:
        bench = Bench(max_waiting=3)
        asked = [bench.ask(1), bench.ask(2, 3), bench.ask(4)]
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted):
            await bench.ask(5)
        bench.triton.hold.set()
        await asyncio.gather(*asked)
        assert speeds_of(await bench.ask(6)) == [6]
        assert bench.sent == [[1], [2, 3, 4], [6]]

    run(test())


def test_one_bad_request_fails_alone() -> None:
    async def test() -> None:
        bench = Bench()
        asked = [bench.ask(1), bench.ask(2), bench.ask(BAD_SPEED), bench.ask(3, 4)]
        await asyncio.sleep(0)
        bench.triton.hold.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(answers[2], InferenceFailed)
        assert [speeds_of(answers[i]) for i in (0, 1, 3)] == [[1], [2], [3, 4]]

    run(test())


def test_who_goes_away_takes_the_rows_out() -> None:
    async def test() -> None:
        bench = Bench()
        asked = [bench.ask(1), bench.ask(2), bench.ask(3, gone=lambda: True), bench.ask(4)]
        await asyncio.sleep(0)
        asked[1].cancel()
        await asyncio.sleep(0)
        bench.triton.hold.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert bench.sent == [[1], [4]]
        assert isinstance(answers[1], asyncio.CancelledError)
        assert isinstance(answers[2], ClientDisconnect)

    run(test())


def test_who_asks_as_soon_as_another_is_found_gone_is_sent() -> None:
    async def test() -> None:
        bench = Bench()

        async def ask_again() -> bytes:
            with pytest.raises(ClientDisconnect):
                await bench.ask(2, gone=lambda: True)
            return await bench.ask(3)

        first = bench.ask(1)
        asked = asyncio.ensure_future(ask_again())
        await asyncio.sleep(0)
        bench.triton.hold.set()
        assert speeds_of(await first) == [1]
        assert speeds_of(await asked) == [3]

    run(test())


def test_who_takes_the_place_of_one_who_is_gone_comes_first() -> None:
    async def test() -> None:
        bench = Bench(max_rows=2)
        began = time.perf_counter()
        first = bench.ask(1)
        gone = bench.ask(2, gone=lambda: True)
        others = [bench.ask(3, 4), bench.ask(5, 6), bench.ask(7, 8)]
        await asyncio.sleep(0)
        bench.triton.hold.set()
        with pytest.raises(ClientDisconnect):
            await gone
        await asyncio.gather(bench.ask(9, since=began), first, *others)
        assert bench.sent == [[1], [3, 4], [9], [5, 6], [7, 8]]

    run(test())


def test_who_is_late_is_told_and_never_sent() -> None:
    async def test() -> None:
        bench = Bench()
        first, late = bench.ask(1), bench.ask(2, timeout=0.05)
        with pytest.raises(DeadlineExceeded):
            await late
        bench.triton.hold.set()
        assert speeds_of(await first) == [1]
        bench.batcher.close()
        assert bench.sent == [[1]]

    run(test())


def test_who_would_be_late_is_refused_at_once() -> None:
    """The first in the line has waited for half of the newcomer's time already."""

    async def test() -> None:
        bench = Bench()
        asked = [bench.ask(1), bench.ask(2, timeout=60)]
        await asyncio.sleep(0.15)
        with pytest.raises(ResourceExhausted):
            await bench.ask(3, timeout=0.25)
        patient = bench.ask(4, timeout=60)
        other = bench.ask(5, model="another", timeout=0.25)
        await asyncio.sleep(0)
        bench.triton.hold.set()
        assert [speeds_of(one) for one in await asyncio.gather(*asked, patient)] == [[1], [2], [4]]
        assert speeds_of(await other) == [5]
        assert bench.sent == [[1], [5], [2, 4]]

    run(test())


def test_a_line_that_needs_too_many_calls_is_full() -> None:
    """As long as calls took lately."""

    async def test() -> None:
        bench = Bench(max_waiting=100)
        first, waiting = bench.ask(1), bench.ask(2)
        await asyncio.sleep(0.1)
        bench.triton.hold.set()
        await asyncio.gather(first, waiting)  # a call takes about 20 ms, says the mean of late
        bench.triton.hold = asyncio.Event()
        asked = [bench.ask(3), bench.ask(*range(100, 180), timeout=60)]
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted):
            await bench.ask(4, timeout=0.05)
        asked.append(bench.ask(5, timeout=60))
        await asyncio.sleep(0)
        bench.triton.hold.set()
        await asyncio.gather(*asked)

    run(test())


def test_a_late_one_is_not_sent_though_no_timer_has_run() -> None:
    """The loop was busy when its time passed."""

    async def test() -> None:
        bench = Bench()
        first, late = bench.ask(1), bench.ask(2, timeout=0.05)
        await asyncio.sleep(0)
        bench.triton.hold.set()
        time.sleep(0.1)
        with pytest.raises(DeadlineExceeded):
            await late
        assert speeds_of(await first) == [1]
        with pytest.raises(DeadlineExceeded):
            await bench.ask(3, timeout=-1)
        assert bench.sent == [[1]]

    run(test())


def test_a_call_that_breaks_off_leaves_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        bench = Bench()
        first, second = bench.ask(1), bench.ask(2)
        await bench.sent_are(1)
        right = bench.triton.call

        def broken(*_: Any) -> None:
            raise RuntimeError("a bug")

        bench.triton.call = broken  # type: ignore[method-assign]
        bench.triton.hold.set()
        assert speeds_of(await first) == [1]
        with pytest.raises(InferenceFailed):
            await second
        bench.triton.call = right  # type: ignore[method-assign]
        assert speeds_of(await bench.ask(3)) == [3]

    run(test())
    assert "a bug" in caplog.text


def test_who_can_not_take_an_answer_keeps_no_other_from_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        bench = Bench()
        first = bench.ask(1)
        await bench.sent_are(1)

        def broken(_: Outcome) -> None:
            raise RuntimeError("a bug")

        deadline = time.perf_counter() + 5
        bench.batcher.submit("m", 8, Inference(rows(2), deadline, broken))
        other = bench.ask(3)
        await asyncio.sleep(0)
        bench.triton.hold.set()
        assert speeds_of(await first) == [1]
        assert speeds_of(await other) == [3]
        assert bench.sent == [[1], [2, 3]]

    run(test())
    assert "a bug" in caplog.text


def test_a_model_that_takes_more_rows_now_gets_them() -> None:
    async def test() -> None:
        bench = Bench(max_rows=2)
        bench.triton.hold.set()
        await bench.ask(1)
        bench.triton.hold = asyncio.Event()
        first = bench.ask(2)
        await asyncio.sleep(0)
        bench.max_rows = 8
        large = bench.ask(*range(10, 16))
        await asyncio.sleep(0)
        bench.max_rows = 4  # and fewer again, while they wait
        small = bench.ask(3)
        await asyncio.sleep(0)
        bench.triton.hold.set()
        await asyncio.gather(first, large, small)
        assert bench.sent == [[1], [2], [10, 11, 12, 13, 14, 15], [3]]

    run(test())


def test_nobody_s_rows_are_not_tried_again() -> None:
    """A batch that failed is asked for one by one: for those that still wait."""

    async def test() -> None:
        bench = Bench()
        first = bench.ask(1)
        await asyncio.sleep(0)
        late = [bench.ask(BAD_SPEED, timeout=0.05), bench.ask(2, timeout=0.05)]
        patient = bench.ask(3)
        await asyncio.sleep(0)
        before, bench.triton.hold = bench.triton.hold, asyncio.Event()
        before.set()
        await first
        await bench.sent_are(2)
        for one in late:
            with pytest.raises(DeadlineExceeded):
                await one
        bench.triton.hold.set()
        assert speeds_of(await patient) == [3]
        assert bench.sent == [[1], [BAD_SPEED, 2, 3], [3]]

    run(test())
