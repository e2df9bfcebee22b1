"""The Triton server inside the `nvidia-pytriton` wheel, started and ended as a child process."""

import collections
import contextlib
import importlib.util
import itertools
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

import psutil

from carlarl.errors import CommandError
from carlarl.serving import cleanup
from carlarl.serving.child_process import ChildProcess
from carlarl.serving.model_probe import ModelProbe
from converters.repository import placement
from gateway.observability.otlp import traces_url
from gateway.triton.client import SECRET_HEADER

CLOSED = "model-repository,shared-memory,trace,logging"
"""Triton's APIs that change the server. Inference, health, metadata and statistics stay open."""
SUMMARIES = ("summary_latencies=true", "summary_quantiles=0.5:0.05,0.95:0.01,0.99:0.001")
"""Let Triton report its own latencies as quantiles of the last minute; by default it does not."""
LOG_LINES = 40
"""How many of the last relevant lines of Triton's log an error message shows."""

STUB = "triton_python_backend_stub"
"""The program that runs a Python model."""
STOP_S = 15.0
"""How long the server may take to end in order."""
LOOK_S = 1.0
"""Seconds between looks at the processes of Python models."""

_HARMLESS = re.compile(  # what Triton logs on a machine without a GPU
    r"CUDA driver version is insufficient|CudaDriverHelper|pinned|CUDA memory pool|NVML|DCGM"
    r"|OTLP"  # spans can't be sent; the gateway reports that
)

_ENTRY = re.compile(r"[IWEF]\d{4} ")
_FAILURE = re.compile(r"(?:failed to load|Failed to process the request\(s\) for model) '.*")


class TritonError(CommandError):
    """Triton can't be started here."""


class TritonServer(ChildProcess):
    """One running `tritonserver` on loopback."""

    def __init__(
        self,
        folder: Path,
        repository: Path,
        models: Sequence[str],
        *,
        http: int,
        grpc: int,
        metrics: int,
        gpu_format: str | None = None,
        left_out: Collection[str] = (),
        needed: Callable[[], Collection[str]] | None = None,
        secret: str | None = None,
    ) -> None:
        """Start the server with `models` of `repository` on three ports and return at once.

        `folder` is the service's own, for links and shared memory: `cleanup.own_folder`.
        With a `gpu_format`, the versions that have it run in it on the first GPU. Of models that
        versions share, the files of versions that are `left_out` are not loaded. A version that
        `needed` does not name is unloaded when nobody has asked for it for a while. With `secret`,
        callers of the control APIs must send it, over HTTP as the header `carlarl-secret`. Raises
        TritonError if the wheel or Python's shared library is missing.
        """
        wheel, libraries = _wheel()
        self._folder = folder
        self._directory = tempfile.TemporaryDirectory(dir=folder)
        backends = Path(self._directory.name)
        _assemble_python_backend(wheel, backends / "python")
        self._repository, linked = repository, backends / "model_repository"
        if gpu_format is not None:
            placement.place(repository, linked, gpu_format, "GPU", left_out)
        elif left_out:
            placement.link(repository, linked, {}, left_out)
        else:
            linked.symlink_to(repository.resolve())
        command = [
            str(wheel / "bin" / "tritonserver"),
            f"--model-repository={linked}",
            f"--backend-directory={backends}",
            f"--backend-config=python,shm-region-prefix-name={folder.name}_",
            f"--cache-directory={wheel / 'caches'}",
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in models),
            # The converters' configs are complete. Completing them would cost a process and a
            # second for each model. The models are loaded at the same time.
            "--disable-auto-complete-config",
            "--model-load-thread-count=16",
            "--exit-timeout-secs=5",
            "--http-address=127.0.0.1",
            f"--http-port={http}",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={grpc}",
            "--metrics-address=127.0.0.1",
            f"--metrics-port={metrics}",
            *(f"--metrics-config={setting}" for setting in SUMMARIES),
        ]
        if (spans := traces_url()) is not None:
            command += _traced(spans)
        if secret is not None:
            command += [
                f"--http-restricted-api={CLOSED}:{SECRET_HEADER}={secret}",
                f"--grpc-restricted-protocol={CLOSED}:{SECRET_HEADER}={secret}",
            ]
        super().__init__(
            command,
            _environment(libraries) | {cleanup.OWNER: str(folder)},
            STOP_S,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._tail: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self._probe = ModelProbe(http, secret, needed)
        self._looked = 0.0
        self._models: dict[int, str] = {}
        self._zombies: set[int] = set()

    def fallen(self) -> str | None:
        """Return that the server or the process of a Python model has ended or hangs, else None.

        Triton reports a model as ready although its process is dead. Triton waits for the processes
        that it ends itself. So a process that is a zombie in two looks ended for another reason.
        """
        if (status := self.exit_code()) is not None:
            return f"Triton ended with status {status}; the end of its log:\n{self.log_tail()}"
        if self._probe.hung is not None:
            return self._probe.hung
        if time.monotonic() < self._looked + LOOK_S:
            return None
        self._looked = time.monotonic()
        zombies = set()
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children():
                if child.status() == psutil.STATUS_ZOMBIE:
                    zombies.add(child.pid)
                elif child.pid not in self._models and child.name() == STUB:
                    self._models[child.pid] = _model_of(child.cmdline())
        dead, self._zombies = zombies & self._zombies, zombies
        if not dead:
            return None
        names = ", ".join(sorted(self._models.get(pid, "?") for pid in dead))
        return f"a process of Triton has died, that of the model {names}"

    def log_tail(self) -> str:
        """Return the end of the log: the reason as one line, then the relevant lines."""
        self._reader.join(timeout=5)
        linked = f"{self._directory.name}/model_repository"
        return explained(list(self._tail)).replace(linked, str(self._repository))

    def stop(self, *, at_once: bool = False) -> None:
        """End the server and remove its processes, shared memory and files.

        In order, which takes seconds if a model is dead, or `at_once`.
        """
        self._probe.stop()
        super().stop(at_once=at_once)
        self._reader.join(timeout=5)
        cleanup.remove_segments(self._folder)
        self._directory.cleanup()

    def _read_log(self) -> None:
        assert self.process.stdout is not None  # a pipe, as asked for
        with self.process.stdout as log:
            for line in telling(log):
                self._tail.append(line)


def telling(log: Iterable[str]) -> Iterator[str]:
    """Yield the lines that may explain an error: no news, tables, usage or harmless lines."""
    usage = False
    for line in map(str.rstrip, log):
        entry = _ENTRY.match(line)
        usage = line.startswith("Usage:") or (usage and not entry and "error:" not in line)
        news = usage or not line or line.startswith(("|", "+")) or (entry and line[0] == "I")
        if not news and not _HARMLESS.search(line):
            yield line


def explained(lines: Sequence[str]) -> str:
    """Put the failure of a model first, if there is one, and drop the lines that it causes."""
    failure = next(filter(None, map(_FAILURE.search, lines)), None)
    if failure is None:
        return "\n".join(lines)
    reason = failure[0].partition("\\n")[0].rstrip('"')
    direct = itertools.takewhile(lambda line: not line.startswith("error: creating server"), lines)
    return "\n".join([reason, *(line for line in direct if " depends on '" not in line)])


def _model_of(command: Sequence[str]) -> str:
    """Return the model and the Triton version that a process of the Python backend runs."""
    path = Path(command[1])
    return f"{path.parent.parent.name} version {path.parent.name}"


def _wheel() -> tuple[Path, Path]:
    """Return the wheel's server folder and the folder of its libraries."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise TritonError(
            "the embedded Triton needs the package nvidia-pytriton, which has wheels for Linux on "
            "x86-64: pip install nvidia-pytriton==0.7.0, or set TRITON_URL to a server that runs"
        )
    package = Path(spec.submodule_search_locations[0])
    return package / "tritonserver", package.parent / "nvidia_pytriton.libs"


def _assemble_python_backend(wheel: Path, target: Path) -> None:
    """Link the Python backend and the stub of this interpreter's version into one folder."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = wheel / "python_backend_stubs" / python / STUB
    if not stub.exists():
        raise TritonError(f"nvidia-pytriton has no Python backend for Python {python}")
    target.mkdir()
    for path in (stub, *(wheel / "backends" / "python").glob("*.*")):
        (target / path.name).symlink_to(path)


def _environment(libraries: Path) -> dict[str, str]:
    """Return Triton's environment.

    The stub runs Python in isolated mode, which ignores PYTHONPATH. It finds this environment's
    packages only through the first `python3` on the PATH.
    """
    paths = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    inherited = os.environ.get("LD_LIBRARY_PATH", "")
    loaded = [str(libraries), str(_libpython().parent), *filter(None, [inherited])]
    threads = {"OMP_NUM_THREADS": "1"}
    return (
        os.environ
        | threads
        | {"PATH": os.pathsep.join(paths), "LD_LIBRARY_PATH": os.pathsep.join(loaded)}
    )


def _traced(url: str) -> list[str]:
    """Return the flags that let Triton send spans to `url`, only for calls that carry a trace.

    Of the other calls Triton samples one in `rate`.
    """
    service = os.environ.get("OTEL_SERVICE_NAME") or "carlarl"
    return [
        "--trace-config=mode=opentelemetry",
        "--trace-config=level=TIMESTAMPS",
        "--trace-config=rate=2000000000",
        f"--trace-config=opentelemetry,url={url}",
        f"--trace-config=opentelemetry,resource=service.name={service}-triton",
    ]


def _libpython() -> Path:
    """Return the shared library of this interpreter, which the Python backend needs."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    folders = [
        sysconfig.get_config_var("LIBDIR") or "",
        f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}",
        f"{sys.base_prefix}/lib",
    ]
    for folder in folders:
        path = Path(folder) / name
        if path.exists():
            return path
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    raise TritonError(
        f"{name} is missing: the embedded Triton needs Python's shared library. On Debian or "
        f"Ubuntu: apt-get install libpython{version}; with pyenv: install Python with "
        "PYTHON_CONFIGURE_OPTS=--enable-shared"
    )
