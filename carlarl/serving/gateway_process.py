"""The gateway as a child process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

from carlarl.serving import cleanup
from carlarl.serving.triton_server import die_with_parent
from gateway.settings import Settings

STOP_MARGIN_S = 5.0
"""How much longer than its own limit the gateway may take to end."""


class GatewayProcess:
    """One running `python -m gateway`, with its workers."""

    def __init__(self, settings: Settings, triton_url: str) -> None:
        """Start it in front of `triton_url`; returns at once.

        It reads environment and configuration file by itself.
        """
        own = {"TRITON_URL": triton_url}
        if settings.triton_token is not None:
            own["TRITON_SECRET"] = settings.triton_token
        cleanup.sweep()
        self._patience_s = settings.shutdown_notice_s + settings.shutdown_timeout_s + STOP_MARGIN_S
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gateway"],
            env=os.environ | own,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    def exit_code(self) -> int | None:
        """Give the exit status, below 0 where a signal ended it, None while it runs."""
        return self._process.poll()

    def fallen(self) -> str | None:
        """Say that it has ended; None while it runs."""
        if (status := self._process.poll()) is None:
            return None
        return f"the gateway ended with status {status}; see its log above"

    def reread(self) -> None:
        """Have it read its configuration file again."""
        self._process.send_signal(signal.SIGHUP)

    def stop(self, *, at_once: bool = False) -> None:
        """Let it answer what it has accepted, unless `at_once`; then end it and its workers."""
        self._process.terminate()
        try:
            self._process.wait(timeout=0 if at_once else self._patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # workers of a killed master
        self._process.wait()
