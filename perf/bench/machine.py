"""The facts of a machine that a figure depends on."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from pathlib import Path

import msgspec
import psutil

FLAGS = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "amx_tile")
PACKAGES = ("fastapi", "msgspec", "numpy", "nvidia-pytriton", "onnxruntime", "torch", "uvicorn")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Hardware and software."""

    cpu: str
    cpu_flags: list[str]
    """Which of the vector extensions that matter here it has."""
    cores: int
    memory_gb: float
    gpu: str | None
    """Name and driver, as `nvidia-smi` says."""
    system: str
    python: str
    packages: dict[str, str]
    commit: str
    """Ends in `-dirty` where the working tree differs from it."""

    def __str__(self) -> str:
        """Say it in a sentence."""
        gpu = f", {self.gpu}" if self.gpu else ""
        return (
            f"{self.cores} cores of {self.cpu} ({', '.join(self.cpu_flags)}), "
            f"{self.memory_gb:.0f} GB{gpu}, Python {self.python}, commit {self.commit}"
        )


def facts() -> Machine:
    """Look at this machine."""
    information: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        information.setdefault(name.strip(), value.strip())
    flags = information.get("flags", "").split()
    return Machine(
        cpu=information.get("model name", platform.machine()),
        cpu_flags=[flag for flag in FLAGS if flag in flags],
        cores=psutil.cpu_count() or 0,
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        gpu=_gpu(),
        system=platform.platform(),
        python=platform.python_version(),
        packages={name: version for name in PACKAGES if (version := _version(name))},
        commit=_commit(),
    )


def _gpu() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip().replace("\n", "; ") if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    root = Path(__file__).parents[2]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
