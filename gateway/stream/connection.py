"""One WebSocket connection: its upgrade, its frames, and the bounds of its memory."""

import asyncio
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import Scope
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from gateway.api.asyncapi import SUBPROTOCOLS
from gateway.inference.service import Service
from gateway.stream.session import POLICY_VIOLATION, Stream, admit

PIECE_BYTES = 4096
"""Bytes that are read from one connection before the others have their turn."""
PING_S = 20.0
"""Time between pings; a peer that sent nothing meanwhile is gone."""
SLOW_S = 5.0
"""How long a vehicle may leave answers unread, send one message, and answer a close frame."""
LINGER_S = 1.0
"""How long TLS connections are still read after the last frame: they can't be half closed."""
GOING_AWAY, NOT_UTF8 = 1001, 1007


class WebSocket(asyncio.Protocol):
    """The server's side of a connection after its upgrade.

    It does not read while the vehicle leaves answers unread, so that no buffer grows.
    """

    def __init__(self, scope: Scope, request_id: str, service: Service, server_state: Any) -> None:
        """Take the upgrade's request.

        Raises what `admit` raises, and HTTPException (400) for a request that is no valid upgrade.
        """
        vehicle = admit(service, scope, request_id)
        self._frames = ServerProtocol(state=OPEN, select_subprotocol=_choose)
        headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in scope["headers"]]
        try:
            accepted, _, subprotocol = self._frames.process_request(
                Request(path="", headers=Headers(headers))
            )
        except InvalidHandshake:
            raise HTTPException(400, "the request is not a valid WebSocket upgrade") from None
        self.headers = _headers(accepted, subprotocol)
        """Headers of the answer to the upgrade, beside those of every answer."""
        self._connections: set[Any] = server_state.connections
        self._service = service
        self._stream = Stream(service, vehicle, self, server_state.tasks)
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._parts: list[bytes] = []
        self._text = False
        self._held = b""
        self._reading = False
        self._paused = False
        self._full = False
        self._heard = True
        self._stopping = False
        self._ended = False
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def start(self, transport: Any, data: bytes) -> None:
        """Take the connection over, with the bytes that came behind the upgrade."""
        self._transport = transport
        self._connections.add(self)
        transport.set_protocol(self)
        self._after("ping", PING_S, self._ping)
        if data:
            self.data_received(data)

    def data_received(self, data: bytes) -> None:
        """Take bytes; they are read a piece at a time."""
        if self._ended:
            return
        self._heard = True
        self._held += data
        if not self._paused:
            self._read_on()

    def pause_writing(self) -> None:
        """Stop reading; the vehicle is cut off if it leaves answers unread for `SLOW_S`."""
        self._full = True
        self._pace()
        self._after("slow", SLOW_S, self.end, POLICY_VIOLATION, "answers are not read")

    def resume_writing(self) -> None:
        """Go on."""
        self._full = False
        self._stop("slow")
        self._pace()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers and the stream."""
        for name in list(self._timers):
            self._stop(name)
        self._connections.discard(self)
        self._ended = True
        self._stream.close()

    def shutdown(self) -> None:
        """Read no more; send a close frame after the last answer."""
        self._stopping = True
        self._pace()
        if not self._stream.busy:
            self.rested()

    # What the stream calls.

    def send(self, data: bytes, text: bool) -> None:
        """Send one frame; frames made while reading are written together."""
        if self._ended or self._frames.state is not OPEN:
            return
        if text:
            self._frames.send_text(data)
        else:
            self._frames.send_binary(data)
        if not self._reading:
            self._flush()

    def end(self, code: int, reason: str) -> None:
        """Close the connection with `code`; what the vehicle sends from now on is dropped."""
        if not self._ended:
            self._frames.fail(code, reason)
            if not self._reading:
                self._flush()

    def rested(self) -> None:
        """Send the close frame if the gateway is stopping."""
        if self._stopping and not self._ended and self._frames.state is OPEN:
            self._frames.send_close(GOING_AWAY, "the gateway is stopping")
            self._flush()
            self._after("goodbye", SLOW_S, self._transport.abort)
            self._pace()

    def _read_on(self) -> None:
        piece, self._held = self._held[:PIECE_BYTES], self._held[PIECE_BYTES:]
        self._frames.max_message_size = self._service.max_frame_bytes
        self._reading = True
        self._frames.receive_data(piece)
        for frame in self._frames.events_received():
            if isinstance(frame, Frame):
                self._take(frame)
        self._reading = False
        if not (self._parts or self._frames.reader.buffer):
            self._stop("message")
        elif "message" not in self._timers:
            self._after("message", SLOW_S, self.end, POLICY_VIOLATION, "a message came too slowly")
        self._flush()
        self._pace()

    def _take(self, frame: Frame) -> None:
        """Take one frame; a message may consist of several."""
        if self._frames.state is not OPEN:
            return
        if frame.opcode not in _DATA:
            self._stream.count_idle()
            return
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
        self._parts.append(bytes(frame.data))
        if not frame.fin:
            self._stream.count_idle()
            return
        data, self._parts = b"".join(self._parts), []
        self._stop("message")
        if self._text and not _is_utf8(data):
            self.end(NOT_UTF8, "a text frame is not UTF-8")
            return
        self._stream.receive(data, self._text)

    def _flush(self) -> None:
        """Write the frames that are due; after the last one, wait until the peer has read it."""
        if self._ended:
            return
        if data := self._frames.data_to_send():
            self._transport.write(b"".join(data))
        if self._frames.eof_sent:
            self._ended = True
            self._held = b""
            for name in list(self._timers):
                self._stop(name)
            if self._frames.close_rcvd is not None:
                self._transport.close()
            elif self._transport.can_write_eof():
                self._transport.write_eof()
            else:  # TLS
                self._after("end", LINGER_S, self._transport.close)
            self._after("goodbye", SLOW_S, self._transport.abort)
            self._pace()

    def _pace(self) -> None:
        """Read on or stop reading; while reading is stopped, no message counts as slow."""
        stopping = self._stopping and self._frames.state is OPEN
        wait = not self._ended and (self._full or stopping)
        if wait:
            self._stop("message")
            self._stop("turn")
        elif self._held:
            self._after("turn", 0, self._turn)
        pause = wait or bool(self._held)
        if pause is not self._paused and not self._transport.is_closing():
            self._paused = pause
            (self._transport.pause_reading if pause else self._transport.resume_reading)()

    def _turn(self) -> None:
        self._stop("turn")
        if self._held:
            self._read_on()

    def _ping(self) -> None:
        if not self._paused:  # else nothing can be heard
            if not self._heard:
                self._transport.abort()
                return
            self._heard = False
            self._frames.send_ping(b"")
            self._flush()
        self._after("ping", PING_S, self._ping)

    def _after(self, name: str, seconds: float, call: Any, *arguments: Any) -> None:
        self._stop(name)
        self._timers[name] = self._loop.call_later(seconds, call, *arguments)

    def _stop(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


_DATA = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)


def _is_utf8(data: bytes) -> bool:
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError:
            return False
    return True


def _choose(_: ServerProtocol, offered: Any) -> Any:
    return next((name for name in offered if name in SUBPROTOCOLS), None)


def _headers(accepted: str, subprotocol: str | None) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"upgrade", b"websocket"),
        (b"connection", b"upgrade"),
        (b"sec-websocket-accept", accepted.encode("latin-1")),
    ]
    if subprotocol is not None:
        headers.append((b"sec-websocket-protocol", subprotocol.encode("latin-1")))
    return headers
