"""What SIGTERM begins: the gateway says that it is not ready, and only then stops to listen."""

import asyncio
import logging
import signal
from types import FrameType

log = logging.getLogger(__name__)


class GracefulShutdown:
    """Whether the gateway has been told to end.

    From `begun` on, for so many seconds, everything is still served, with `/readyz` failing and
    each answer ending its connection, so that whoever balances the load sends it elsewhere.
    """

    def __init__(self, notice_s: float) -> None:
        """Give notice for so long; nothing happens before `listen`."""
        self._notice_s = notice_s
        self.begun = False

    def listen(self) -> None:
        """Come before the server's own handler of SIGTERM, where it has one in this thread."""
        server = signal.getsignal(signal.SIGTERM)
        if not callable(server) or not self._notice_s:
            return
        loop = asyncio.get_running_loop()

        def handle(number: int, frame: FrameType | None) -> None:
            if self.begun:  # told twice
                server(number, frame)
                return
            self.begun = True
            loop.call_soon_threadsafe(loop.call_later, self._notice_s, server, number, None)
            log.info("stopping in %g s; not ready from now on", self._notice_s)

        try:
            signal.signal(signal.SIGTERM, handle)
        except ValueError:  # not in the main thread: somebody else's process
            return
