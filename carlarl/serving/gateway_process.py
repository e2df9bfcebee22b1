"""The gateway as a child process."""

import os
import signal
import sys
import tempfile
from pathlib import Path

from carlarl.serving import cleanup
from carlarl.serving.child_process import ChildProcess
from gateway.config.settings import Settings
from gateway.observability.workers import MULTIPROCESS_DIR

STOP_MARGIN_S = 5.0
"""How much longer than its own limit the gateway may take to end."""


class GatewayProcess(ChildProcess):
    """One running `python -m gateway`, with its workers."""

    def __init__(self, folder: Path, settings: Settings, triton_url: str) -> None:
        """Start it in front of `triton_url` and return at once.

        It reads environment and configuration file itself. `folder` is the service's own.
        """
        own = {"TRITON_URL": triton_url, cleanup.OWNER: str(folder)}
        self._metrics = tempfile.TemporaryDirectory(dir=folder)
        if settings.workers > 1 and MULTIPROCESS_DIR not in os.environ:
            own[MULTIPROCESS_DIR] = self._metrics.name
        if settings.triton_token is not None:
            own["TRITON_SECRET"] = settings.triton_token
        patience_s = settings.shutdown_notice_s + settings.shutdown_timeout_s + STOP_MARGIN_S
        super().__init__([sys.executable, "-m", "gateway"], os.environ | own, patience_s)

    def fallen(self) -> str | None:
        """Return that it has ended, or None while it runs."""
        if (status := self.exit_code()) is None:
            return None
        return f"the gateway ended with status {status}; see its log above"

    def stop(self, *, at_once: bool = False) -> None:
        """End it, in order or `at_once`, and remove the files of its workers' metrics."""
        super().stop(at_once=at_once)
        self._metrics.cleanup()

    def reread(self) -> None:
        """Let it read its configuration file again."""
        self.process.send_signal(signal.SIGHUP)
