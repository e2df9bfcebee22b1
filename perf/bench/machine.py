"""The facts of a machine that a figure depends on."""

import importlib.metadata
import platform
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
    installed = {one.name: one.version for one in importlib.metadata.distributions()}
    gpu = _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    flags = information.get("flags", "").split()
    return Machine(
        cpu=information.get("model name", platform.machine()),
        cpu_flags=[flag for flag in FLAGS if flag in flags],
        cores=psutil.cpu_count() or 0,
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        gpu=gpu.replace("\n", "; ") or None,
        python=platform.python_version(),
        packages={name: version for name in PACKAGES if (version := installed.get(name))},
        commit=_output("git", "describe", "--always", "--dirty", "--exclude=*") or "unknown",
    )


def _output(*command: str) -> str:
    """Return what a command prints; nothing where it is not there or fails."""
    root = Path(__file__).parents[2]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    except OSError:
        return ""
    return "" if done.returncode else done.stdout.strip()
