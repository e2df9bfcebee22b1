"""Unloads the versions that nobody needs any more, of which each promotion leaves one."""

import time
from collections import Counter
from collections.abc import Callable, Collection

from converters.repository import configs, repository
from converters.repository.repository import RepositoryError
from triton_backend.healthcheck import Triton

IDLE_S = 60.0
"""How long nobody may have asked for such a version."""


class Retirement:
    """What is loaded in one Triton and not needed, and since when nobody has asked for it."""

    def __init__(self, triton: Triton, needed: Callable[[], Collection[str]]) -> None:
        """Take the Triton, and what names the versions that stay loaded."""
        self._triton = triton
        self._needed = needed
        self._idle: dict[str, tuple[int, float]] = {}
        """Version → its calls so far, and when the last of them was first seen."""

    def look(self) -> None:
        """Unload what was idle for too long. Raises OSError if Triton fails."""
        try:
            needed = self._needed()
        except RepositoryError:  # it is being changed by hand
            return
        before, self._idle = self._idle, {}
        models: dict[str, list[str]] = {}
        for name in sorted({model["name"] for model in self._triton.loaded()}):
            version = repository.version_of(name)
            if version is not None and version not in needed:
                models.setdefault(version, []).append(name)  # ensembles before their steps
        calls = self._calls() if models else Counter[str]()
        for version, names in models.items():
            used = sum(calls[name] for name in names if name.startswith(configs.ALIAS))
            count, since = before.get(version, (None, 0.0))
            since = since if used == count else time.monotonic()
            self._idle[version] = used, since
            if time.monotonic() > since + IDLE_S:
                for name in names:
                    self._triton.ask(f"/repository/models/{name}/unload", {})

    def _calls(self) -> Counter[str]:
        """Return how often each model was called, but for this service's own probes."""
        calls = Counter[str]()
        for one in self._triton.ask("/models/stats")["model_stats"]:
            told = one["inference_stats"]
            calls[one["name"]] += told["success"]["count"] + told["fail"]["count"]
        calls.subtract(self._triton.probed)
        return calls
