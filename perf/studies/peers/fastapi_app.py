"""FastAPI, pydantic and one runtime in one process: what a careful person writes without Triton.

The same schema and bounds, one version, no queue and no deadlines. Tuned: one session with one
thread; the policy runs inside the event loop, since it takes less time than handing it to a thread;
uvloop and httptools, no access log, a typed answer that pydantic serialises, and, as FastAPI's
page on deployment advises, as many worker processes as there are cores. (`perf.bench.gate` compares
one worker of this gateway with one of this, with ONNX Runtime.)

With TorchScript also as PyTorch's tuning guide advises: `inference_mode`, a program that is loaded
once, and one thread in each worker, so that the workers do not fight for cores.
"""

from fastapi import FastAPI, HTTPException

from .policy import Policy, PredictAnswer, PredictRequest

app = FastAPI()
policy = Policy()


@app.post("/predict", response_model_exclude_none=True)
async def predict(request: PredictRequest) -> PredictAnswer:
    """Answer observations with actions."""
    try:
        return policy.answer(request)
    except ValueError as error:
        raise HTTPException(422, str(error)) from None
