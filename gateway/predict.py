"""From observations to actions: arrays, the seed, the calls of Triton and their check."""

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.errors import InferenceFailed, ModelNotFound, ServiceUnavailable
from gateway.metrics import Metrics
from gateway.policy import PolicyVersion, Tensors
from gateway.schema import PredictRequest, check_sensors
from gateway.triton import Triton
from gateway.versions import Versions


@dataclass(frozen=True)
class Prediction:
    """Actions [N,3] (throttle, brake, steer), who computed them, and their seed if sampled."""

    actions: NDArray[np.float32]
    version: str
    seed: int | None


class Predictor:
    """Asks Triton for the actions of one request at a time."""

    def __init__(self, triton: Triton, versions: Versions, metrics: Metrics) -> None:
        """Take the server, what it serves, and where calls are counted."""
        self._triton = triton
        self._versions = versions
        self._metrics = metrics

    async def predict(self, request: PredictRequest, deadline: float) -> Prediction:
        """Answer every observation of `request` before `deadline` (time.perf_counter).

        Raises ModelNotFound, ValidationFailed for a wrong number of sensors, and whatever
        `Triton.infer` raises.
        """
        policy = await self._versions.resolve(request.version)
        check_sensors(request, policy.sensors)
        seed = _seed(request)
        tensors = _tensors(request, seed or 0)
        try:
            actions = await self._infer(policy, tensors, len(request.observations), deadline)
        except (ModelNotFound, ServiceUnavailable):
            self._versions.forget(policy)
            raise
        self._metrics.observations.inc(len(actions))
        return Prediction(actions, policy.version, seed)

    async def _infer(
        self, policy: PolicyVersion, tensors: Tensors, rows: int, deadline: float
    ) -> NDArray[np.float32]:
        step = policy.max_batch_size
        if rows <= step:
            return await self._call(policy.model, tensors, rows, deadline)
        calls = []
        for start in range(0, rows, step):
            part = {name: tensor[start : start + step] for name, tensor in tensors.items()}
            size = min(step, rows - start)
            calls.append(asyncio.ensure_future(self._call(policy.model, part, size, deadline)))
        try:
            return np.concatenate(await asyncio.gather(*calls))
        finally:
            for call in calls:
                call.cancel()

    async def _call(
        self, model: str, tensors: Tensors, rows: int, deadline: float
    ) -> NDArray[np.float32]:
        start = time.perf_counter()
        actions = await self._triton.infer(model, tensors, deadline - start)
        self._metrics.inference.observe(time.perf_counter() - start)
        if actions.shape != (rows, 3):
            raise InferenceFailed(f"{model} gave {list(actions.shape)} for {rows} rows")
        if not np.isfinite(actions).all():
            raise InferenceFailed(f"{model} gave an action that is not finite")
        return actions


def _seed(request: PredictRequest) -> int | None:
    if request.deterministic:
        return None
    return secrets.randbits(63) if request.seed is None else request.seed


def _tensors(request: PredictRequest, seed: int) -> Tensors:
    seen = request.observations
    rows = len(seen)
    columns: dict[str, Any] = {
        "speed": np.array([[o.speed] for o in seen], np.float32),
        "steering": np.array([[o.steering] for o in seen], np.float32),
        "sensors": np.array([o.sensors for o in seen], np.float32),
        "deterministic": np.full((rows, 1), request.deterministic, np.bool_),
        "seed": np.full((rows, 1), seed, np.int64),
        "row": np.arange(rows, dtype=np.int64).reshape(-1, 1),
    }
    return columns
