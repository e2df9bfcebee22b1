"""How much a gateway's memory grows, at its peak, while something is asked of it."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.gateway.wire.wire import process_at

SAMPLE_S = 0.001


class Memory:
    """Watches the gateway at a URL until the block ends; then `grown` is by how many bytes.

    The kernel keeps the peak (VmHWM) and forgets it when asked to; where it may not be asked, the
    memory is sampled each millisecond.
    """

    def __init__(self, url: str) -> None:
        """Find the gateway, which must be a child of this process."""
        self._process = process_at(url)
        self.grown = 0

    def __enter__(self) -> Memory:
        self._before = self._peak = self._process.memory_info().rss
        try:
            Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")
            self._thread = None
        except OSError:
            self._end = threading.Event()
            self._thread = threading.Thread(target=self._sample)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._end.set()
            self._thread.join()
        else:
            text = Path(f"/proc/{self._process.pid}/status").read_text()
            line = next(line for line in text.splitlines() if line.startswith("VmHWM:"))
            self._peak = int(line.split()[1]) << 10
        self.grown = self._peak - self._before

    def _sample(self) -> None:
        while not self._end.wait(SAMPLE_S):
            self._peak = max(self._peak, self._process.memory_info().rss)
