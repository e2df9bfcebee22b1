"""FastAPI, pydantic, Pillow and ONNX Runtime in each process: images without Triton.

Tuned as their pages advise: a process for each core, uvloop and httptools, no access log; endpoints
that block are plain functions, which FastAPI runs in its pool of threads; one session, one thread
for each call. Msgpack is read by `msgspec`, and checked by pydantic.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from PIL import Image
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field

from perf.studies.peers.policy import Action
from triton_backend.runtimes import onnx

SHAPE = tuple(map(int, os.environ["SHAPE"].split(",")))
infer = onnx(Path(os.environ["MODEL"]))
app = FastAPI()


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Png(_Strict):
    """An image in JSON."""

    png: Base64Bytes


class BinaryPng(_Strict):
    """An image in msgpack."""

    png: bytes


class PredictRequest(_Strict):
    """What `/predict` takes in JSON."""

    observations: list[Base64Bytes | Png] = Field(min_length=1, max_length=1000)
    deterministic: bool = False


class BinaryRequest(_Strict):
    """The same in msgpack."""

    observations: list[bytes | BinaryPng] = Field(min_length=1, max_length=1000)
    deterministic: bool = False


class PredictAnswer(BaseModel):
    """What `/predict` answers."""

    actions: list[Action]


def _pixels(observation: Any) -> Any:
    if isinstance(observation, bytes):
        return np.frombuffer(observation, np.uint8).reshape(SHAPE)
    with Image.open(io.BytesIO(observation.png), formats=["PNG"]) as image:
        if (image.height, image.width, len(image.getbands())) != SHAPE:
            raise ValueError("the image has another size")
        return np.asarray(image)


def _answer(request: PredictRequest | BinaryRequest) -> PredictAnswer:
    try:
        pixels = np.stack([_pixels(one) for one in request.observations])
    except (ValueError, OSError) as error:
        raise HTTPException(422, str(error)) from None
    (actions,) = infer(np.zeros((len(pixels), 1), np.float32), pixels)
    return PredictAnswer(
        actions=[Action(throttle=t, brake=b, steer=s) for t, b, s in actions.tolist()]
    )


@app.post("/predict")
def predict(request: PredictRequest) -> PredictAnswer:
    """Answer observations in JSON with actions."""
    return _answer(request)


async def _body(request: Request) -> bytes:
    return await request.body()


@app.post("/msgpack/predict")
def predict_msgpack(body: Annotated[bytes, Depends(_body)]) -> Response:
    """Answer observations in msgpack with actions."""
    answer = _answer(BinaryRequest.model_validate(msgspec.msgpack.decode(body)))
    return Response(msgspec.msgpack.encode(answer.model_dump()), media_type="application/msgpack")
