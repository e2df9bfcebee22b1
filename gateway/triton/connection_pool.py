"""A minimal HTTP/1.1 client for one server: kept connections, one request at a time on each."""

import asyncio
from collections.abc import Callable
from typing import Any

import httptools


class Answer:
    """One answer: status, headers in lower case, and the whole body."""

    __slots__ = ("body", "headers", "status")

    def __init__(self) -> None:
        """Start empty."""
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""


Outcome = Answer | Exception
"""An answer, or why there is none: OSError, or TimeoutError, where it did not come in time."""
Done = Callable[[Outcome], None]


class Connection(asyncio.Protocol):
    """One connection; `send` writes a request and has its answer handed over."""

    def __init__(self, on_lost: Callable[["Connection"], None]) -> None:
        """Tell `on_lost` when the server or the network ends it."""
        self._on_lost = on_lost
        self._transport: Any = None
        self._done: Done | None = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._answer = Answer()
        self._chunks: list[bytes] = []
        self._complete = False
        self._keep_alive = True
        self.answered = False
        """Whether any byte came since the last request."""
        self.closed = False
        """Whether this side ended it."""

    def connection_made(self, transport: Any) -> None:
        """Remember the transport."""
        self._transport = transport

    def send(self, data: bytes, done: Done) -> None:
        """Write one request, and call `done` with its outcome; the connection must be idle."""
        self._done = done
        self._answer = Answer()
        self._chunks = []
        self.answered = False
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and hand over what is complete."""
        self.answered = True
        if self._done is None:  # bytes that nobody asked for
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._hand_over(ConnectionResetError(f"no HTTP: {error}"))
            self.close()
            return
        if self._complete:
            self._complete = False
            self._hand_over(self._answer)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the request that was under way."""
        self._keep_alive = False
        self._hand_over(error or ConnectionResetError("the server closed the connection"))
        self._on_lost(self)

    def close(self) -> None:
        """End the connection; nobody waits for an answer any more."""
        self._keep_alive = False
        self._done = None
        if self._transport is not None and not self._transport.is_closing():
            self.closed = True
            self._transport.close()

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return self._keep_alive and self._done is None and not self._transport.is_closing()

    def _hand_over(self, outcome: Outcome) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(outcome)

    # What httptools calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header of the answer."""
        self._answer.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body."""
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        """Note that the answer is complete."""
        answer = self._answer
        answer.status = self._parser.get_status_code()
        answer.body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._keep_alive = self._parser.should_keep_alive()
        self._complete = True


class Pool:
    """Connections to one server, made when needed and kept; the one used last is used next."""

    def __init__(self, host: str, port: int) -> None:
        """Connect at the first request."""
        self._host = host
        self._port = port
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._missing = 0
        self.reconnects = 0
        """Connections that were opened in the place of lost ones."""

    def call(self, data: bytes, timeout_s: float, done: Done) -> None:
        """Send one request, and call `done` with its outcome after `timeout_s` at most.

        A kept connection that the server closes before the first byte of its answer is replaced
        once: requests here may be repeated, since none of them changes anything.
        """
        _Call(self, data, timeout_s, done).start(self._take())

    async def request(self, data: bytes, timeout_s: float) -> Answer:
        """As `call`; raises OSError, or TimeoutError, where there is no answer."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            if answer.done():  # nobody waits for it any more
                return
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

        self.call(data, timeout_s, done)
        return await answer

    def close(self) -> None:
        """End all connections."""
        for connection in list(self._all):
            connection.close()

    def keep(self, connection: Connection) -> None:
        """Keep a connection for the next request, where it can have one."""
        if connection.usable:
            self._idle.append(connection)
        else:
            connection.close()

    def connect(self, call: "_Call") -> None:
        """Open a new connection for `call`."""
        task = asyncio.ensure_future(self._connect(call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self, call: "_Call") -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(self._lost), self._host, self._port
            )
        except OSError as error:
            call.end(error)
            return
        self._all.add(connection)
        if self._missing:
            self._missing -= 1
            self.reconnects += 1
        call.send(connection)

    def _lost(self, connection: Connection) -> None:
        self._all.discard(connection)
        if not connection.closed:
            self._missing += 1


class _Call:
    """One request, until its outcome is handed over."""

    __slots__ = ("_connection", "_data", "_done", "_kept", "_pool", "_timer")

    def __init__(self, pool: Pool, data: bytes, timeout_s: float, done: Done) -> None:
        self._pool = pool
        self._data = data
        self._done: Done | None = done
        self._kept = False
        self._connection: Connection | None = None
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self._late)

    def start(self, kept: Connection | None) -> None:
        if kept is None:
            self._pool.connect(self)
        else:
            self._kept = True
            self.send(kept)

    def send(self, connection: Connection) -> None:
        if self._done is None:  # too late
            self._pool.keep(connection)
            return
        self._connection = connection
        connection.send(self._data, self._answered)

    def end(self, outcome: Outcome) -> None:
        """Hand the outcome over, once."""
        done, self._done, self._connection = self._done, None, None
        self._timer.cancel()
        if done is not None:
            done(outcome)

    def _answered(self, outcome: Outcome) -> None:
        connection = self._connection
        assert connection is not None
        if isinstance(outcome, Answer):
            self._pool.keep(connection)
        elif self._kept and not connection.answered:
            self._kept = False
            self._pool.connect(self)
            return
        self.end(outcome)

    def _late(self) -> None:
        if self._connection is not None:
            self._connection.close()  # its answer is still to come, and nobody's
        self.end(TimeoutError())
