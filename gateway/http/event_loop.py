"""uvicorn's event loop: it bounds TLS handshakes, and knows the sockets that it listens on."""

import select
import socket
import struct
import sys
from contextlib import suppress
from ctypes import addressof, create_string_buffer
from typing import Any

import uvloop

HANDSHAKE_S = 5.0
"""How long a TLS handshake may take."""
_SO_ATTACH_FILTER = 26
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the byte of flags from the TCP header
    (0x45, 0, 1, 0x02),  # is SYN set?
    (0x06, 0, 0, 0),  # yes: drop the segment
    (0x06, 0, 0, 0xFFFFFFFF),  # no: take all of it
)
"""A classic BPF program. A SYN that is dropped is sent again after a second."""


class Loop(uvloop.Loop):
    """The loop of one gateway process."""

    _listener: socket.socket

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        """Listen as uvloop does; uvicorn itself bounds no handshake, which would take 60 s."""
        if options.get("ssl") is not None:
            options["ssl_handshake_timeout"] = HANDSHAKE_S
            options["ssl_shutdown_timeout"] = HANDSHAKE_S  # for the peer's part of the end
        self._listener = options["sock"]  # one of several duplicates
        return await super().create_server(*arguments, **options)

    def begin_no_connections(self) -> None:
        """Have the kernel begin no further connection; those that have begun can be accepted.

        The kernel resets what a socket that is closed has not accepted. Other systems than Linux
        can't do this.
        """
        if sys.platform == "linux":
            code = create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in _DROP_SYN))
            program = struct.pack("HP", len(_DROP_SYN), addressof(code))
            with suppress(OSError):  # a sandbox may refuse it
                self._listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def has_waiting(self) -> bool:
        """Return whether connections wait to be accepted."""
        if self._listener.fileno() < 0:  # closed: SIGTERM came twice
            return False
        waiting = select.poll()
        waiting.register(self._listener, select.POLLIN)
        return bool(waiting.poll(0))
