"""The way to the end after SIGTERM: first the gateway is not ready, later it stops listening."""

import asyncio
import logging
import signal
import time
from types import FrameType

from gateway.http.event_loop import Loop

DRAIN_S, DRAIN_LOOK_S, DRAIN_LOOKS = 0.1, 0.01, 100
"""How long handshakes under way have at least; then the time between looks at the connections
that wait, and the number of looks at most: a process without free file descriptors accepts none."""

SAME_S = 1.0
"""Signals within this time count as one: systemd signals every process, and parents do it, too."""

log = logging.getLogger(__name__)


class GracefulShutdown:
    """Whether the gateway has been told to end.

    For `notice_s` seconds from `begun` on everything is still served, but `/readyz` fails and each
    answer ends its connection, so that load balancers go elsewhere. Then no further connection
    begins, and the server ends as soon as all connections that have begun are accepted.
    """

    def __init__(self, notice_s: float) -> None:
        self._notice_s = notice_s
        self.begun = False
        self._since = 0.0

    def listen(self) -> None:
        """Replace the server's handler of SIGTERM; the server's own is called at the end."""
        server = signal.getsignal(signal.SIGTERM)
        loop = asyncio.get_running_loop()
        if not callable(server) or not self._notice_s or not isinstance(loop, Loop):
            return

        def handle(number: int, frame: FrameType | None) -> None:
            if self.begun:
                if time.monotonic() - self._since > SAME_S:  # told again
                    server(number, frame)
                return
            self.begun, self._since = True, time.monotonic()
            loop.call_soon_threadsafe(loop.call_later, self._notice_s, drain)
            log.info("stopping in %g s; not ready from now on", self._notice_s)

        def drain() -> None:
            loop.begin_no_connections()
            loop.call_later(DRAIN_S, end, DRAIN_LOOKS)

        def end(looks: int) -> None:
            if looks and loop.has_waiting():
                loop.call_later(DRAIN_LOOK_S, end, looks - 1)
            else:
                server(signal.SIGTERM, None)

        try:
            signal.signal(signal.SIGTERM, handle)
        except ValueError:  # not in the main thread: somebody else's process
            return
