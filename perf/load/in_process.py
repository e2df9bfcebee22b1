"""The policy alone: preprocessing and the policy in this process, without Triton or a gateway."""

import collections
import time
from pathlib import Path

import numpy as np

from perf.load.generator import LoadError
from perf.load.measurement import Measurement, measured
from perf.load.observations import tensors
from triton_backend import runtimes
from triton_backend.preprocessing import FILE_NAME, Preprocessing

OPEN = {"onnx": runtimes.onnx, "torchscript": runtimes.torchscript}
WARMUP = 50


def run(
    repository: Path, seconds: float, batch_size: int = 1, *, version: str, form: str
) -> Measurement:
    """Compute one batch after another for `seconds`, one caller. Raises LoadError."""
    major, minor, patch = map(int, version.removeprefix("v").split("."))
    number = str(major * 1_000_000 + minor * 1_000 + patch)  # as Triton knows the version
    if form not in OPEN:
        raise LoadError(f"{form} is not run in process")
    # In a repository of an earlier release versions share these models.
    name = "model.onnx" if form == "onnx" else "model.pt"
    file = next(repository.glob(f"policy_{form}*/{number}/{name}"), None)
    statistics = next(repository.glob(f"preprocess*/{number}/{FILE_NAME}"), None)
    if file is None or statistics is None:
        raise LoadError(f"{repository}: no {form} model of {version} for Triton's Python")
    try:
        infer = OPEN[form](file)
    except ImportError as error:
        raise LoadError(f"{error.name} is not installed") from None
    preprocessing = Preprocessing.load(statistics)
    seen = tensors(batch_size, preprocessing.observation_space)
    values = [
        np.frombuffer(b"".join(row[leaf.name] for row in seen), leaf.space.dtype)
        for leaf in preprocessing.leaves
    ]
    observation = preprocessing.flatten([one.reshape(batch_size, -1) for one in values])
    noise = np.zeros((batch_size, preprocessing.noise), np.float32)
    for _ in range(WARMUP):
        infer(preprocessing.features(observation), noise)
    counts = collections.Counter[int]()
    began = now = time.perf_counter()
    while now - began < seconds:
        infer(preprocessing.features(observation), noise)
        before, now = now, time.perf_counter()
        counts[max(1, round((now - before) * 1e6))] += 1
    return measured(
        sorted(counts.items()),
        counts.total(),
        now - began,
        layer="in-process",
        target="preprocessing and policy",
        version=version,
        format=form,
        loop="closed",
        tool="time.perf_counter",
        concurrency=1,
        batch_size=batch_size,
    )
