"""What a benchmark found, as one JSON file.

A results file is one JSON object, `Results`; the fields below are its fields.
"""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

import msgspec

from perf.bench.machine import Machine, facts
from perf.load import processes
from perf.load.generator import LoadError
from perf.load.measurement import Measurement

SCHEMA = 1


class ResultsError(LoadError):
    """A results file can't be read; the text says why, and what writes one."""

    def __init__(self, path: Path, why: object) -> None:
        """Take the file, and what is wrong with it."""
        super().__init__(f"{path}: {why}; `carlarl bench run --save-results FILE` makes one")


class MemorySample(msgspec.Struct, frozen=True):
    """Memory after so many requests, in MB (10^6 bytes)."""

    seconds: float
    requests: int
    gateway: float
    """Proportional set size of the gateway's processes, without mapped files."""
    triton: float
    """The same of Triton and its Python processes."""
    shm: float
    """Size of their segments in /dev/shm, which count in the two above as well."""


class Slope(msgspec.Struct, frozen=True):
    """Growth in MB per 1000 requests, with its interval of 95 %."""

    value: float
    low: float
    high: float


class Verdict(msgspec.Struct, frozen=True):
    """Whether a part's memory grows."""

    part: str
    held_mb: float
    """The median of the last quarter."""
    growth: Slope
    kind: Literal["steady", "grows"]
    text: str


class Results(msgspec.Struct, kw_only=True):
    """One benchmark, with all that its figures depend on."""

    schema: int = SCHEMA
    started: str
    """ISO 8601, UTC."""
    command: str
    machine: Machine
    settings: dict[str, str]
    """The settings of the measured stack that are not the defaults, by environment variable."""
    measurements: list[Measurement] = []
    interrupted: bool = False
    """Whether it ended before its last measurement."""
    left_out: list[str] = []
    """What was not measured, and why, a sentence each."""
    memory: list[MemorySample] = []
    """Memory over a long run."""
    verdicts: list[Verdict] = []
    """What the samples say of each part's memory."""

    @classmethod
    def of(cls, command: str, **variables: str) -> Self:
        """Begin: no measurement yet, this machine, and the settings of a stack started here.

        `variables` are settings besides those of the environment.
        """
        started = datetime.now(UTC).isoformat(timespec="seconds")
        settings = processes.settings() | variables
        return cls(started=started, command=command, machine=facts(), settings=settings)

    def save(self, path: Path) -> Path:
        """Write the JSON, and return the path that has it.

        A complete benchmark replaces an older file in one step. One that was interrupted leaves
        the older file as it is, and is beside it as `NAME.part`.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(msgspec.json.encode(self) + b"\n")
        if self.interrupted:
            return part
        os.replace(part, path)
        return path


def load(path: Path) -> Results:
    """Read a results file. Raises ResultsError."""
    try:
        results = msgspec.json.decode(path.read_bytes(), type=Results)
    except OSError as error:
        raise ResultsError(path, error.strerror) from error
    except msgspec.MsgspecError as error:
        raise ResultsError(path, f"not a results file: {error}") from error
    if results.schema != SCHEMA:
        raise ResultsError(path, f"schema {results.schema}; this reads {SCHEMA}")
    return results
