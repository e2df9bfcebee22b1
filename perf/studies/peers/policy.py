"""The policy and its JSON, which every peer serves: numpy, pydantic and one runtime library.

Imported relatively, with this folder's parent on the path, so that a peer's environment needs
nothing that the benchmarks need.
"""

import os
import secrets
import time
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from triton_backend.preprocessing import Preprocessing
from triton_backend.runtimes import onnx, torchscript


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
    """One version of the policy, loaded once: from the files that MODEL and PREPROCESSING name."""

    def __init__(self) -> None:
        """Load both files."""
        model = Path(os.environ["MODEL"])
        self._version = os.environ.get("VERSION", "v0.2.0")
        self._preprocessing = Preprocessing.load(Path(os.environ["PREPROCESSING"]))
        self._infer = torchscript(model) if model.suffix == ".pt" else onnx(model)

    def answer(self, request: PredictRequest) -> PredictAnswer:
        """Answer one request; raises ValueError for one that this policy can't answer."""
        return self.answer_all([request])[0]

    def answer_all(self, requests: list[PredictRequest]) -> list[PredictAnswer]:
        """Answer requests that were joined, by one run of the policy; raises ValueError."""
        began = time.perf_counter()
        rows: list[list[float]] = []
        noise, seeds = [], []
        for request in requests:
            if request.version not in (None, self._version):
                raise ValueError(f"there is no version {request.version}")
            rows += [[o.speed, o.steering, *o.sensors] for o in request.observations]
            shape = (len(request.observations), self._preprocessing.noise)
            if request.deterministic:
                seed = None
                noise.append(np.zeros(shape, np.float32))
            else:
                seed = secrets.randbits(63) if request.seed is None else request.seed
                noise.append(np.random.default_rng(seed).standard_normal(shape, np.float32))
            seeds.append(seed)
        if any(len(row) != self._preprocessing.width for row in rows):
            raise ValueError(f"the policy takes {self._preprocessing.width - 2} sensors")
        features = self._preprocessing.features(np.array(rows, np.float32))
        actions, *_ = self._infer(features, noise[0] if len(noise) == 1 else np.concatenate(noise))
        if not np.isfinite(actions).all():
            raise ValueError("the action is not finite")
        made = [Action(throttle=t, brake=b, steer=s) for t, b, s in actions.tolist()]
        took = (time.perf_counter() - began) * 1000
        rest = iter(made)
        return [
            PredictAnswer(
                actions=list(islice(rest, len(request.observations))),
                version=self._version,
                timingMs=took,
                deterministic=request.deterministic,
                seed=seed,
            )
            for request, seed in zip(requests, seeds, strict=True)
        ]
