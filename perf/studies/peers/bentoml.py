"""BentoML: a service whose API checks and answers in the worker's own event loop.

Tuned as its page on parallel requests advises for work on the CPU: as many workers as cores. Access
log, metrics and usage tracking are off. No adaptive batching: an endpoint with it takes one
argument, a list, so that the same JSON would need a second service and a hop between the two.
"""

import bentoml

from .policy import Observation, Policy, PredictAnswer, PredictRequest


@bentoml.service(
    workers="cpu_count", logging={"access": {"enabled": False}}, metrics={"enabled": False}
)
class PolicyService:
    """The policy, once in each worker."""

    def __init__(self) -> None:
        """Load it."""
        self._policy = Policy()

    @bentoml.api
    async def predict(
        self,
        observations: list[Observation],
        deterministic: bool = False,
        seed: int | None = None,
        version: str | None = None,
    ) -> PredictAnswer:
        """Answer observations with actions."""
        request = PredictRequest.model_construct(
            observations=observations, deterministic=deterministic, seed=seed, version=version
        )
        return self._policy.answer(request)
