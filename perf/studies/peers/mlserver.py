"""MLServer: the policy as a runtime of its own.

Tuned as its page on parallel inference advises for light work: `parallel_workers` 0, so that no
second process is between the request and the policy. The JSON is the same, by MLServer's custom
handlers, which adaptive batching does not cover. Access log, compression, metrics and tracing are
off.
"""

from mlserver import MLModel
from mlserver.handlers import custom_handler

from .policy import Policy, PredictAnswer, PredictRequest


class PolicyRuntime(MLModel):
    """The policy."""

    async def load(self) -> bool:
        """Load it."""
        self._policy = Policy()
        return True

    @custom_handler(rest_path="/predict")
    async def answer(self, request: PredictRequest) -> PredictAnswer:
        """Answer observations with actions."""
        return self._policy.answer(request)
