"""Models that are not asked, since they may answer one call with the reply to another.

Triton's Python backend waits a second or so for a model's process. Then it answers "Stub process …
is not healthy", and a reply that comes later is the next request's answer. Two seconds after that
the process ends itself, and only a restart of Triton brings it back (`carlarl serve` does that).

Each answer is compared by its nonce, so no caller gets a wrong one in any case. The quarantine
keeps callers from a model whose answers would be thrown away. That a model was restarted can't be
seen from its readiness: Triton calls it ready all the time. So it is left alone for `QUARANTINE_S`,
or until Triton was seen to be away, as that is how it is restarted. After that it must answer two
golden inferences right, of different numbers of rows, before callers get its answers again.
"""

import time

QUARANTINE_S = 5.0
"""How long a model is left alone: longer than its process takes to end."""


class Quarantine:
    """The models that are not asked, and until when not even by golden inferences."""

    def __init__(self) -> None:
        """Start empty."""
        self._until: dict[str, float] = {}

    def __contains__(self, model: str) -> bool:
        """Whether callers' requests must not go to `model`."""
        return model in self._until

    def add(self, model: str) -> None:
        """Leave `model` alone from now on."""
        self._until[model] = time.monotonic() + QUARANTINE_S

    def closed(self, model: str) -> bool:
        """Whether it is too early even for a golden inference of `model`."""
        return self._until.get(model, 0.0) > time.monotonic()

    def restarted(self) -> None:
        """Allow golden inferences at once, as Triton was away."""
        self._until = dict.fromkeys(self._until, 0.0)

    def release(self, model: str) -> None:
        """Let callers' requests go to `model` again."""
        self._until.pop(model, None)
