"""Models that get no requests, because they may answer one call with the reply to another.

Triton's Python backend waits a second or so for a model's process. Then it answers "Stub process …
is not healthy", and gives a reply that comes later to the next request. Two seconds after that the
process ends itself, and only a restart of Triton brings it back (`carlarl serve` does that).

The nonce of each answer is compared, so no caller ever gets a wrong one. The quarantine keeps
requests away from a model whose answers would be thrown away. Readiness does not show whether the
model was restarted: Triton calls it ready all the time. So the model gets no requests for
`QUARANTINE_S`, or until Triton was seen to be away, since a restart of Triton restarts the model.
Then the model must answer two golden inferences correctly, with different numbers of rows. Only
after that do callers get its answers again.
"""

import time

QUARANTINE_S = 5.0
"""How long a model gets no requests: longer than its process takes to end."""


class Quarantine:
    """The models that get no requests, and until when they get no golden inferences either."""

    def __init__(self) -> None:
        """Start empty."""
        self._until: dict[str, float] = {}

    def __contains__(self, model: str) -> bool:
        """Return whether callers' requests must not go to `model`."""
        return model in self._until

    def add(self, model: str) -> None:
        """Send nothing to `model` from now on."""
        self._until[model] = time.monotonic() + QUARANTINE_S

    def closed(self, model: str) -> bool:
        """Return whether it is too early even for a golden inference of `model`."""
        return self._until.get(model, 0.0) > time.monotonic()

    def restarted(self) -> None:
        """Allow golden inferences at once, as Triton was away."""
        self._until = dict.fromkeys(self._until, 0.0)

    def release(self, model: str) -> None:
        """Let callers' requests go to `model` again."""
        self._until.pop(model, None)
