"""Sending inputs over connections of their own, with a good request behind each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from tests.fuzzing.exchange import Answer, Check, Input, Outcome

CALLERS = 8
PATIENCE_S = 60.0
SILENCE_S = 0.2
"""How long an answer is waited for where none need come: what was sent may be half a request."""


async def _read(stream: asyncio.StreamReader, no_content: bool = False) -> Answer:
    """Read one answer. Raises EOFError where the connection ends first."""
    try:
        head = await stream.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        raise EOFError(f"the connection ended after {error.partial[:100]!r}") from None
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    status = int(first.split(" ")[1])
    if status == 100:
        return await _read(stream, no_content)
    length = 0 if no_content else int(headers.get("content-length", 0))
    if headers.get("transfer-encoding") == "chunked" and not no_content:
        content = b""
        while size := int((await stream.readline()).split(b";")[0], 16):
            content += (await stream.readexactly(size + 2))[:-2]
        await stream.readline()
        return Answer(status, headers, content)
    return Answer(status, headers, await stream.readexactly(length))


class Sender:
    """Sends inputs to one server and checks what comes back, with a good request after each."""

    def __init__(self, url: str, good: bytes, check: Check, expected: Callable[[Answer], Any]):
        """Take the server, a good request, the check of an answer, and what is in a good one."""
        address = urlsplit(url)
        self._address = address.hostname, address.port
        self._good, self._check, self._expected = good, check, expected
        self.outcome = Outcome()

    def run(self, inputs: Iterable[Input]) -> Outcome:
        """Send all, a few at a time; each connection ends before the next input's begins."""
        asyncio.run(self._run(iter(inputs)))
        return self.outcome

    async def _run(self, inputs: Iterator[Input]) -> None:
        self._right = await self._ask_good()
        await asyncio.gather(*(self._call(inputs) for _ in range(CALLERS)))

    async def _ask_good(self) -> Any:
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            writer.write(self._good)
            return self._expected(await asyncio.wait_for(_read(reader), PATIENCE_S))
        finally:
            writer.close()

    async def _call(self, inputs: Iterator[Input]) -> None:
        for one in inputs:
            if len(self.outcome.problems) > 20:
                return
            self.outcome.sent[one.kind] += 1
            try:
                kept = await self._send(one)
                if not kept and await self._ask_good() != self._right:
                    raise AssertionError("a good request afterwards got another answer")
            except (AssertionError, EOFError, OSError, TimeoutError, ValueError) as error:
                sent = b"".join(one.pieces)
                self.outcome.problems.append(f"{one.kind}: {error!r} for {sent[:2000]!r}")

    async def _send(self, one: Input) -> bool:
        """Send one input; whether a good request was answered right on the same connection."""
        reader, writer = await asyncio.open_connection(*self._address, limit=1 << 22)
        try:
            try:
                for piece in one.pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if one.leaves:
                    writer.write_eof()
            except ConnectionError:
                assert one.answers is None, "the connection ended while it was sent to"
            if one.answers is None:
                await self._take_what_comes(one, reader)
                return False
            for _ in range(one.answers):
                answer = await asyncio.wait_for(_read(reader, one.no_content), PATIENCE_S)
                self._note(one, answer)
                if answer.headers.get("connection", "").lower() == "close":
                    return False
            writer.write(self._good)
            try:
                right = await asyncio.wait_for(_read(reader), PATIENCE_S)
            except (EOFError, ConnectionError):  # it was ended with the refusal: a new one must do
                return False
            got = self._expected(right)
            assert got == self._right, f"a good request behind it got {got}"
            return True
        finally:
            writer.close()

    async def _take_what_comes(self, one: Input, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                answer = await asyncio.wait_for(_read(reader, one.no_content), SILENCE_S)
            except (EOFError, TimeoutError, ConnectionError):
                return
            self._note(one, answer)

    def _note(self, one: Input, answer: Answer) -> None:
        self.outcome.codes[answer.status] += 1
        self.outcome.reached += self._check(one, answer)
