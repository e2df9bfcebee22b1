"""The plain alternative: the policy in the web process, with FastAPI, pydantic and ONNX Runtime.

What a careful person would write without Triton: the same schema and bounds, one session with one
thread, the computation inside the event loop because it takes less time than handing it to a
thread, orjson-fast serialisation by pydantic. One version, no queue, no deadlines.

    MODEL=model_repository/policy_onnx/2000/model.onnx \
    PREPROCESSING=model_repository/preprocess/2000/preprocessing.json \
    uvicorn perf.peers.fastapi_onnxruntime:app --port 8090 --loop uvloop --http httptools \
        --no-access-log
"""

import json
import os
import secrets
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import onnxruntime
from fastapi import FastAPI, HTTPException
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

VERSION = os.environ.get("VERSION", "v0.2.0")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Observation(_Strict):
    """One observation of the car."""

    speed: float = Field(ge=0, le=200, allow_inf_nan=False)
    steering: float = Field(ge=-1, le=1, allow_inf_nan=False)
    sensors: list[Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]]


class PredictRequest(_Strict):
    """What `/predict` takes."""

    observations: list[Observation] = Field(min_length=1, max_length=1000)
    deterministic: bool = False
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    version: str | None = None


class Action(BaseModel):
    """One action."""

    throttle: float
    brake: float
    steer: float


class PredictAnswer(BaseModel):
    """What `/predict` answers."""

    actions: list[Action]
    version: str
    timingMs: float  # noqa: N815
    deterministic: bool
    seed: int | None = None


class Policy:
    """Statistics and session, loaded once."""

    def __init__(self, model: Path, preprocessing: Path) -> None:
        """Load both files."""
        content = json.loads(preprocessing.read_text())
        steps = {name: np.array(values) for name, values in content["steps"]}
        self.sensors: int = content["sensors"]
        self._noise: int = content["noise"]
        self._mean, self._scale, self._clip = steps["subtract"], steps["divide"], steps["clip"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(model), options, ["CPUExecutionProvider"])

    def act(self, observations: list[Observation], seed: int | None) -> NDArray[np.float32]:
        """Give the actions, shape (n, 3); deterministic where `seed` is None."""
        raw = np.array([[o.speed, o.steering, *o.sensors] for o in observations], np.float32)
        features = np.clip((raw - self._mean) / self._scale, *self._clip).astype(np.float32)
        shape = (len(raw), self._noise)
        if seed is None:
            noise = np.zeros(shape, np.float32)
        else:
            noise = np.random.default_rng(seed).standard_normal(shape, np.float32)
        actions: NDArray[np.float32] = self._session.run(
            None, {"features": features, "noise": noise}
        )[0]
        return actions


policy = Policy(Path(os.environ["MODEL"]), Path(os.environ["PREPROCESSING"]))
app = FastAPI()


@app.post("/predict", response_model_exclude_none=True)
async def predict(request: PredictRequest) -> PredictAnswer:
    """Answer observations with actions."""
    began = time.perf_counter()
    if request.version not in (None, VERSION):
        raise HTTPException(404, f"there is no version {request.version}")
    if any(len(seen.sensors) != policy.sensors for seen in request.observations):
        raise HTTPException(422, f"the policy takes {policy.sensors} sensors")
    seed = None
    if not request.deterministic:
        seed = secrets.randbits(63) if request.seed is None else request.seed
    actions = policy.act(request.observations, seed)
    if not np.isfinite(actions).all():
        raise HTTPException(502, "the action is not finite")
    return PredictAnswer(
        actions=[Action(throttle=t, brake=b, steer=s) for t, b, s in actions.tolist()],
        version=VERSION,
        timingMs=(time.perf_counter() - began) * 1000,
        deterministic=request.deterministic,
        seed=seed,
    )
