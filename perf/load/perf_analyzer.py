"""Triton's own load generator, `perf_analyzer`, against the ensembles and the fused models.

It comes with the wheel `tritonclient==2.51.0`, which the gateway's own tritonclient does not; so
`make perf-analyzer` puts it into `.perf-analyzer/`, with the two libraries that it needs.
"""

import collections
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
from perf.load.observations import DRIVING, tensors
from perf.load.processes import ROOT
from perf.load.target import fused
from policy_spec.dtypes import DTYPES
from policy_spec.leaves import Layout, leaves
from policy_spec.spaces import Space

FOLDER = ROOT / ".perf-analyzer"
STEPS = 64
"""Observations in an input file; perf_analyzer takes them in turn, and begins again."""
WINDOWS = 3
"""Windows that perf_analyzer measures at the least: it looks whether the last three agree."""
PATHS = ("usr/lib/x86_64-linux-gnu", "nvidia/cuda_runtime/lib")
"""Where `make perf-analyzer` puts the libraries, below FOLDER."""

_REQUEST = re.compile(rb'"timestamp":(\d+),.*?"response_timestamps":\[(\d+)', re.DOTALL)
_WINDOWS = re.compile(rb'"window_boundaries":\[([\d,]+)\]')


def find() -> str:
    """Return the program. Raises LoadError where it, or a library of it, is missing."""
    named = os.environ.get("PERF_ANALYZER")
    own = shutil.which("perf_analyzer") or shutil.which(FOLDER / "bin" / "perf_analyzer")
    found = shutil.which(named) if named else own
    if found is None:
        where = f"PERF_ANALYZER={named} is no program" if named else "perf_analyzer is missing"
        raise LoadError(f"{where}: make perf-analyzer")
    tried = _run(found, "--version")
    if tried.returncode:
        raise LoadError(f"{tried.stderr.strip()}: make perf-analyzer")
    return str(found)


def missing() -> str | None:
    """Say what is missing and what to do; None where all is there."""
    try:
        find()
    except LoadError as error:
        return str(error)
    return None


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    inherited = filter(None, [os.environ.get("LD_LIBRARY_PATH")])
    paths = ":".join([*(str(FOLDER / path) for path in PATHS), *inherited])
    environment = os.environ | {"LD_LIBRARY_PATH": paths}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def _input_data(model: str, space: Space) -> dict[str, Any]:
    """Return the content of an `--input-data` file: deterministic requests to a model."""
    layout, steps = Layout.of(space), []
    types = {leaf.name: leaf.space.element for leaf in leaves(space)}
    lone = {} if model.startswith(fused("")) else {"deterministic": [True], "seed": [0]}
    for seen in tensors(STEPS, space):
        contents = seen if lone else layout.join(seen)
        step = {
            name: list(types.get(name, DTYPES["float32"]).unpack(content))
            for name, content in contents.items()
        }
        steps.append(step | lone)
    return {"data": steps}


def run(
    model: str,
    protocol: str,
    address: str,
    concurrency: int,
    seconds: float,
    batch_size: int = 1,
    *,
    space: Space = DRIVING,
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
        data.write_text(json.dumps(_input_data(model, space)))
        command = f"{program} -m {model} -i {protocol} -u {address} -b {batch_size}".split()
        command += ["--concurrency-range", str(concurrency), "--input-data", str(data)]
        command += ["--measurement-interval", str(max(100, round(seconds * 1000 / WINDOWS)))]
        command += ["--stability-percentage", "1000000", "--profile-export-file", str(export)]
        done = _run(*command)
        if done.returncode or not export.exists():
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise LoadError(f"perf_analyzer ended with status {done.returncode}: {''.join(said)}")
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
    """Return the latencies within the windows, in microseconds, and the seconds of the windows.

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
