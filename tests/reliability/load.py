"""Callers that ask all the time over kept connections, and what became of each request."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import urlsplit

import httptools

from tests.gateway.processes import OBSERVATION

CALLERS = 16
PAUSE_S = 0.01
PATIENCE_S = 5.0
BODY = json.dumps({"observations": [OBSERVATION], "deterministic": True}).encode()
REQUEST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
REFUSED, LOST = "not accepted", "lost"


@dataclass
class Load:
    """`CALLERS` callers of one URL, each with one request at a time, from enter to exit.

    `answers` has the moment (time.monotonic) and the status of each, `REFUSED` where no connection
    could be had, `LOST` where one ended before its answer.
    """

    url: str
    answers: list[tuple[float, int | str]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def counts(self) -> Counter[int | str]:
        return Counter(outcome for _, outcome in self.answers)

    def outage(self, since: float) -> tuple[float, float]:
        """Seconds from `since` to the first failure, and on to the first good answer after it."""
        after = [(moment, outcome) for moment, outcome in self.answers if moment >= since]
        first = next((moment for moment, outcome in after if outcome != 200), None)
        if first is None:
            return 0.0, 0.0
        last = max(moment for moment, outcome in after if outcome != 200)
        good = next((moment for moment, outcome in after if moment > last and outcome == 200), 0.0)
        return first - since, good - first

    async def _run(self) -> None:
        await asyncio.gather(*(self._call() for _ in range(CALLERS)))

    async def _call(self) -> None:
        address = urlsplit(self.url)
        streams = None
        while not self._stop.is_set():
            outcome: int | str = REFUSED
            try:
                if streams is None:
                    streams = await asyncio.open_connection(address.hostname, address.port)
                outcome = LOST
                streams[1].write(REQUEST)
                async with asyncio.timeout(PATIENCE_S):
                    outcome, keep = await _answer(streams[0])
            except (OSError, TimeoutError, httptools.HttpParserError):
                keep = False
            if not keep and streams is not None:
                streams[1].close()
                streams = None
            self.answers.append((time.monotonic(), outcome))
            await asyncio.sleep(PAUSE_S)


class _Reading:
    complete = False

    def on_message_complete(self) -> None:
        self.complete = True


async def _answer(stream: asyncio.StreamReader) -> tuple[int, bool]:
    """Read one answer: its status, and whether the connection stays."""
    reading = _Reading()
    parser = httptools.HttpResponseParser(reading)
    while not reading.complete:
        data = await stream.read(65536)
        if not data:
            raise ConnectionResetError
        parser.feed_data(data)
    return parser.get_status_code(), parser.should_keep_alive()
