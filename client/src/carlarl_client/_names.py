"""Looks up hosts without waiting for longer than a call may take."""

from __future__ import annotations

import concurrent.futures
import socket
import threading
import time

import httpcore

KEPT_S = 1.0
"""Seconds for which a host's addresses are known."""


class Lookup(threading.Thread):
    """One look-up of a host by the system, which can't be ended: nobody waits for its end."""

    def __init__(self, host: str) -> None:
        """Begin."""
        super().__init__(daemon=True)
        self._host = host
        self._over = float("inf")
        self.addresses: concurrent.futures.Future[list[str]] = concurrent.futures.Future()
        self.addresses.set_running_or_notify_cancel()  # no caller can cancel it for the others
        self.start()

    def run(self) -> None:
        """Look it up."""
        try:
            found = socket.getaddrinfo(self._host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            self._over = 0.0
            self.addresses.set_exception(httpcore.ConnectError(f"{self._host}: {error}"))
        else:
            self._over = time.monotonic() + KEPT_S
            self.addresses.set_result(list(dict.fromkeys(str(one[4][0]) for one in found)))

    def is_old(self) -> bool:
        """Whether it failed, or ended some time ago."""
        return self._over < time.monotonic()


class Names:
    """Looks up hosts; callers that ask for the same one at a time share a look-up."""

    def __init__(self) -> None:
        """Know none yet."""
        self._lock = threading.Lock()
        self._lookups: dict[str, Lookup] = {}

    def addresses(self, host: str) -> concurrent.futures.Future[list[str]]:
        """Return the addresses of a host; `httpcore.ConnectError` where it has none."""
        with self._lock:
            lookup = self._lookups.get(host)
            if lookup is None or lookup.is_old():
                lookup = self._lookups[host] = Lookup(host)
            return lookup.addresses
