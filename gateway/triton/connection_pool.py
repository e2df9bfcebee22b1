"""A minimal HTTP/1.1 client for one server: kept connections, one request at a time on each."""

import asyncio
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


class Connection(asyncio.Protocol):
    """One connection; `send` writes a request and gives the future of its answer."""

    def __init__(self, on_lost: Any) -> None:
        """Tell `on_lost(self)` when the server or the network ends it."""
        self._on_lost = on_lost
        self._transport: Any = None
        self._future: asyncio.Future[Answer] | None = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._answer = Answer()
        self._chunks: list[bytes] = []
        self._keep_alive = True
        self.answered = False
        """Whether any byte came since the last request."""
        self.closed = False
        """Whether this side ended it."""

    def connection_made(self, transport: Any) -> None:
        """Remember the transport."""
        self._transport = transport

    def send(self, data: bytes) -> asyncio.Future[Answer]:
        """Write one request; the connection must be idle."""
        self._future = asyncio.get_running_loop().create_future()
        self._answer = Answer()
        self._chunks = []
        self.answered = False
        self._transport.write(data)
        return self._future

    def data_received(self, data: bytes) -> None:
        """Feed the parser."""
        self.answered = True
        if self._future is None:  # bytes that nobody asked for
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionResetError(f"no HTTP: {error}"))
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the request that was under way."""
        self._keep_alive = False
        self._fail(error or ConnectionResetError("the server closed the connection"))
        self._on_lost(self)

    def close(self) -> None:
        """End the connection."""
        self._keep_alive = False
        if self._transport is not None and not self._transport.is_closing():
            self.closed = True
            self._transport.close()

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return self._keep_alive and self._future is None and not self._transport.is_closing()

    def _fail(self, error: Exception) -> None:
        future, self._future = self._future, None
        if future is not None and not future.done():
            future.set_exception(error)

    # What httptools calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header of the answer."""
        self._answer.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body."""
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        """Hand the answer to whoever asked."""
        answer, future = self._answer, self._future
        answer.status = self._parser.get_status_code()
        answer.body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._keep_alive = self._parser.should_keep_alive()
        self._future = None
        if future is not None and not future.done():
            future.set_result(answer)


class Pool:
    """Connections to one server, made when needed and kept; the one used last is used next."""

    def __init__(self, host: str, port: int) -> None:
        """Connect at the first request."""
        self._host = host
        self._port = port
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._missing = 0
        self.reconnects = 0
        """Connections that were opened in the place of lost ones."""

    async def request(self, data: bytes) -> Answer:
        """Send one request and give its answer; raises OSError where the server is away.

        A kept connection that the server closes before the first byte of its answer is replaced
        once: requests here may be repeated, since none of them changes anything.
        """
        connection = self._take()
        if connection is not None:
            try:
                return await self._exchange(connection, data)
            except OSError:
                if connection.answered:
                    raise
        return await self._exchange(await self._connect(), data)

    def close(self) -> None:
        """End all connections."""
        for connection in list(self._all):
            connection.close()

    async def _exchange(self, connection: Connection, data: bytes) -> Answer:
        try:
            answer = await connection.send(data)
        except asyncio.CancelledError:
            connection.close()  # its answer is still to come, and nobody's
            raise
        if connection.usable:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: Connection(self._lost), self._host, self._port
        )
        self._all.add(connection)
        if self._missing:
            self._missing -= 1
            self.reconnects += 1
        return connection

    def _lost(self, connection: Connection) -> None:
        self._all.discard(connection)
        if not connection.closed:
            self._missing += 1
