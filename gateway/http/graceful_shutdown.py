"""What SIGTERM begins: the gateway says that it is not ready, and only then stops to listen."""

import asyncio
import logging
import signal
from types import FrameType

from gateway.http.event_loop import Loop

DRAIN_S, DRAIN_LOOK_S = 0.1, 0.01
"""How long handshakes under way have at least, and between looks at what waits."""

log = logging.getLogger(__name__)


class GracefulShutdown:
    """Whether the gateway has been told to end.

    From `begun` on, for so many seconds, everything is still served, with `/readyz` failing and
    each answer ending its connection, so that whoever balances the load sends it elsewhere. Then
    no further connection begins, and the server ends when those that have begun are accepted.
    """

    def __init__(self, notice_s: float) -> None:
        """Give notice for so long; nothing happens before `listen`."""
        self._notice_s = notice_s
        self.begun = False

    def listen(self) -> None:
        """Come before the server's own handler of SIGTERM, where it has one in this thread."""
        server = signal.getsignal(signal.SIGTERM)
        loop = asyncio.get_running_loop()
        if not callable(server) or not self._notice_s or not isinstance(loop, Loop):
            return

        def handle(number: int, frame: FrameType | None) -> None:
            if self.begun:  # told twice
                server(number, frame)
                return
            self.begun = True
            loop.call_soon_threadsafe(loop.call_later, self._notice_s, drain)
            log.info("stopping in %g s; not ready from now on", self._notice_s)

        def drain() -> None:
            loop.begin_no_connections()
            loop.call_later(DRAIN_S, end)

        def end() -> None:
            if loop.accepts():
                loop.call_later(DRAIN_LOOK_S, end)
            else:
                server(signal.SIGTERM, None)

        try:
            signal.signal(signal.SIGTERM, handle)
        except ValueError:  # not in the main thread: somebody else's process
            return
