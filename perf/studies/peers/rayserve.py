"""Ray Serve: FastAPI in replicas, behind the HAProxy that `ray[serve]` brings.

Tuned as its page on performance and its announcement of high throughput advise:
`RAY_SERVE_ENABLE_HA_PROXY=1` and `RAY_SERVE_THROUGHPUT_OPTIMIZED=1` (user code in the replica's own
loop, buffered logs, none of them to the console), an `async` method, a high `max_ongoing_requests`,
a replica for each core, no access log, no dashboard.
"""

import os

import ray
from fastapi import FastAPI, HTTPException
from ray import serve

from .policy import Policy, PredictAnswer, PredictRequest

api = FastAPI()


@serve.deployment(
    num_replicas=os.cpu_count(),
    max_ongoing_requests=1000,
    ray_actor_options={"num_cpus": 0.5},
    logging_config={"enable_access_log": False},
)
@serve.ingress(api)
class PolicyDeployment:
    """The policy, once in each replica."""

    def __init__(self) -> None:
        """Load it."""
        self._policy = Policy()

    @api.post("/predict", response_model_exclude_none=True)
    async def predict(self, request: PredictRequest) -> PredictAnswer:
        """Answer observations with actions."""
        try:
            return self._policy.answer(request)
        except ValueError as error:
            raise HTTPException(422, str(error)) from None


app = PolicyDeployment.bind()  # type: ignore[attr-defined]

if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(app, blocking=True)
