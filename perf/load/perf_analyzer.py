"""Triton's own load generator, `perf_analyzer`, against the ensembles and the fused models.

It comes with the wheel `tritonclient==2.51.0`, which the gateway's own tritonclient does not; so
`make perf-analyzer` puts it into `.perf-analyzer/`, with the two libraries that it needs.
"""

from __future__ import annotations

import collections
import ctypes
import json
import mmap
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from perf.load.generator import LoadError
from perf.load.measurement import Measurement, measured
from perf.load.observations import SENSORS, rows
from perf.load.processes import ROOT
from perf.load.target import fused

FOLDER = ROOT / ".perf-analyzer"
STEPS = 64
"""Observations in an input file; perf_analyzer takes them in turn, and begins again."""
WINDOWS = 3
"""Windows that perf_analyzer measures at the least: it looks whether the last three agree."""
LIBRARIES = {
    "libb64.so.0d": "apt-get install libb64-0d",
    "libcudart.so.12": "pip install nvidia-cuda-runtime-cu12",
}
PATHS = ("usr/lib/x86_64-linux-gnu", "nvidia/cuda_runtime/lib")
"""Where `make perf-analyzer` puts the libraries, below FOLDER."""

_REQUEST = re.compile(rb'"timestamp":(\d+),.*?"response_timestamps":\[(\d+)', re.DOTALL)
_WINDOWS = re.compile(rb'"window_boundaries":\[([\d,]+)\]')


def find() -> Path:
    """Give the program. Raises LoadError where it, or a library of it, is missing."""
    named = os.environ.get("PERF_ANALYZER")
    candidates = [named] if named else ["perf_analyzer", str(FOLDER / "bin" / "perf_analyzer")]
    found = next(filter(None, map(shutil.which, candidates)), None)
    if found is None:
        where = f"PERF_ANALYZER={named} is no program" if named else "perf_analyzer is missing"
        raise LoadError(f"{where}: make perf-analyzer")
    for library, cure in LIBRARIES.items():
        if not any(map(_loads, (*(str(FOLDER / path / library) for path in PATHS), library))):
            raise LoadError(f"perf_analyzer lacks {library}: make perf-analyzer, or {cure}")
    return Path(found)


def missing() -> str | None:
    """Say what is missing and what to do; None where all is there."""
    try:
        find()
    except LoadError as error:
        return str(error)
    return None


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def input_data(model: str, sensors: int = len(SENSORS)) -> dict[str, Any]:
    """Give the content of an `--input-data` file: deterministic requests to a model."""
    steps: list[dict[str, list[Any]]] = []
    for seen in rows(STEPS, sensors):
        values = [seen["speed"], seen["steering"], *seen["sensors"]]
        fields = {"speed": values[:1], "steering": values[1:2], "sensors": values[2:]}
        whole = {**fields, "deterministic": [True], "seed": [0]}
        steps.append({"observation": values} if model.startswith(fused("")) else whole)
    return {"data": steps}


def run(
    model: str,
    protocol: str,
    address: str,
    concurrency: int,
    seconds: float,
    batch_size: int = 1,
    *,
    sensors: int = len(SENSORS),
    version: str = "v0.2.0",
    form: str = "onnx",
) -> Measurement:
    """Load `model` at `host:port` with so many callers. Raises LoadError.

    perf_analyzer measures three windows and goes on until they agree. Here any three agree, so that
    a run takes `seconds`; repeats show how far runs differ.
    """
    program = find()
    with tempfile.TemporaryDirectory(prefix="carlarl-bench-") as folder:
        data, export = Path(folder) / "input.json", Path(folder) / "profile.json"
        data.write_text(json.dumps(input_data(model, sensors)))
        command = f"{program} -m {model} -i {protocol} -u {address} -b {batch_size}".split()
        command += ["--concurrency-range", str(concurrency), "--input-data", str(data)]
        command += ["--measurement-interval", str(max(100, round(seconds * 1000 / WINDOWS)))]
        command += ["--stability-percentage", "1000000", "--profile-export-file", str(export)]
        inherited = filter(None, [os.environ.get("LD_LIBRARY_PATH")])
        paths = ":".join([*(str(FOLDER / path) for path in PATHS), *inherited])
        environment = os.environ | {"LD_LIBRARY_PATH": paths}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode or not export.exists():
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            status = f"status {done.returncode}"
            raise LoadError(f"perf_analyzer ended with {status}: {' '.join(said)}")
        counts, took = _read(export)
    return measured(
        sorted(counts.items()),
        counts.total(),
        took,
        layer=f"triton-{protocol}",
        target=model,
        version=version,
        format=form,
        loop="closed",
        tool="perf_analyzer",
        concurrency=concurrency,
        batch_size=batch_size,
    )


def _read(export: Path) -> tuple[collections.Counter[int], float]:
    """Give the latencies within the windows, in microseconds, and the seconds of the windows.

    The file has every request's inputs and outputs and can be hundreds of megabytes, so it is
    searched and not parsed.
    """
    counts = collections.Counter[int]()
    with export.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        tail = content[max(0, len(content) - 10_000) :]
        windows = _WINDOWS.search(tail)
        if windows is None:
            raise LoadError("perf_analyzer's export names no windows")
        bounds = msgspec.json.decode(b"[" + windows[1] + b"]", type=list[int])
        for match in _REQUEST.finditer(content):
            sent, answered = int(match[1]), int(match[2])
            if bounds[0] <= answered <= bounds[-1]:
                counts[max(1, round((answered - sent) / 1000))] += 1
    if not counts:
        raise LoadError("no request was answered")
    return counts, (bounds[-1] - bounds[0]) / 1e9


def write_input_files(folder: Path) -> None:
    """Write the input files for use by hand: `python -m perf.load.perf_analyzer`."""
    folder.mkdir(exist_ok=True)
    for name, model in (("ensemble", "carla_policy"), ("fused", fused("v0.2.0"))):
        steps = ",\n  ".join(json.dumps(step) for step in input_data(model)["data"])
        (folder / f"{name}.json").write_text(f'{{"data": [\n  {steps}\n]}}\n')


if __name__ == "__main__":
    write_input_files(ROOT / "perf" / "data")
