"""A child process of `carlarl serve`: Triton, or the gateway with its workers."""

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

_PR_SET_PDEATHSIG = 1


class ChildProcess:
    """A program that runs in a process group of its own and ends with its parent."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], patience_s: float, **more: Any
    ) -> None:
        """Start `command` and return at once.

        `patience_s` is how long it may take to end in order; `more` goes to subprocess.Popen.
        """
        self._patience_s = patience_s
        self.process: subprocess.Popen[str] = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches only the parent, which then ends its children
            preexec_fn=_end_with_parent,
            **more,
        )

    def exit_code(self) -> int | None:
        """Return the exit status, below 0 if a signal ended it, or None while it runs."""
        return self.process.poll()

    def fallen(self) -> str | None:
        """Return why it must be started again, or None while it works."""
        status = self.exit_code()
        return None if status is None else f"it ended with status {status}"

    def stop(self, *, at_once: bool = False) -> None:
        """End it and its own children: in order, or `at_once`."""
        self.process.terminate()
        try:
            self.process.wait(timeout=0 if at_once else self._patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # the children of a killed process
        self.process.wait()


def _end_with_parent() -> None:
    """Let the kernel end this process when its parent ends, for whatever reason."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
