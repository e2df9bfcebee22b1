"""The gateway as a child process."""

from __future__ import annotations

import os
import signal
import sys

from carlarl.serving import cleanup
from carlarl.serving.child_process import ChildProcess
from gateway.config.settings import Settings

STOP_MARGIN_S = 5.0
"""How much longer than its own limit the gateway may take to end."""


class GatewayProcess(ChildProcess):
    """One running `python -m gateway`, with its workers."""

    def __init__(self, settings: Settings, triton_url: str) -> None:
        """Start it in front of `triton_url` and return at once.

        It reads environment and configuration file itself.
        """
        own = {"TRITON_URL": triton_url}
        if settings.triton_token is not None:
            own["TRITON_SECRET"] = settings.triton_token
        cleanup.sweep()
        patience_s = settings.shutdown_notice_s + settings.shutdown_timeout_s + STOP_MARGIN_S
        super().__init__([sys.executable, "-m", "gateway"], os.environ | own, patience_s)

    def fallen(self) -> str | None:
        """Return that it has ended, or None while it runs."""
        if (status := self.exit_code()) is None:
            return None
        return f"the gateway ended with status {status}; see its log above"

    def reread(self) -> None:
        """Let it read its configuration file again."""
        self.process.send_signal(signal.SIGHUP)
