"""Inference requests that tell a hung model from one that works."""

import contextlib
import threading
from collections.abc import Callable, Collection

from carlarl.serving.retirement import Retirement
from triton_backend.healthcheck import HungError, Triton

PROBE_S = 5.0
"""Seconds between the requests to a model."""


class ModelProbe:
    """Asks each Python model that a Triton has loaded again and again, in a thread of its own.

    A model that does not answer hangs, and so does one that Triton calls not healthy twice in a
    row. The gateway asks only what it calls for the active version. After each round it unloads
    what nobody needs any more.
    """

    def __init__(
        self, port: int, secret: str | None, needed: Callable[[], Collection[str]] | None
    ) -> None:
        """Begin to ask the Triton on this HTTP port of this machine.

        `needed` names the versions that stay loaded whether somebody asks for them or not; without
        it all do.
        """
        self.hung: str | None = None
        """What is wrong with a model that hangs; then no more is asked."""
        self._triton = Triton(port, secret)
        self._retirement = None if needed is None else Retirement(self._triton, needed)
        self._unhealthy: set[str] = set()
        self._stopped = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()

    def _run(self) -> None:
        while self.hung is None and not self._stopped.wait(PROBE_S):
            with contextlib.suppress(OSError, ValueError):  # Triton starts or ends
                self._look()

    def _look(self) -> None:
        try:
            before, self._unhealthy = self._unhealthy, self._triton.probe()
        except HungError as error:
            self.hung = str(error)
            return
        for model in before & self._unhealthy:
            self.hung = f"the process of {model} is not healthy"
            return
        if self._retirement is not None:
            self._retirement.look()
