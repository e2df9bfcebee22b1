"""LitServe: an API server and inference workers, each a process.

Tuned as its pages on batching and speed and its own comparison with FastAPI
(`tests/parity_fastapi`) do: requests joined into batches of up to 32, which wait a millisecond for
each other (its comparison waits ten; with none its worker spins on an empty queue); ZeroMQ between
the processes (`fast_queue`); an API server for each core; one worker, whose arithmetic is the
smallest part; log level warning.
"""

import os

import litserve

from .policy import Policy, PredictAnswer, PredictRequest


class PolicyAPI(litserve.LitAPI):
    """What a worker does with the requests that it gets."""

    def setup(self, device: str) -> None:
        """Load the policy."""
        self._policy = Policy()

    def decode_request(self, request: PredictRequest) -> PredictRequest:
        """Leave it as the API server checked it."""
        return request

    def predict(self, x: list[PredictRequest]) -> list[PredictAnswer]:
        """Answer the requests that came together."""
        return self._policy.answer_all(x)

    def encode_response(self, output: PredictAnswer) -> PredictAnswer:
        """Leave it to the API server."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(
        PolicyAPI(max_batch_size=32, batch_timeout=0.001),
        accelerator="cpu",
        workers_per_device=1,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        num_api_servers=os.cpu_count(),
        log_level="warning",
        generate_client_file=False,
    )
