"""`carlarl serve`: an embedded Triton and the gateway, started, watched and ended together."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from carlarl import gpu, leftovers, ports
from carlarl.triton_server import TritonServer, die_with_parent
from converters import configs, repository
from gateway.settings import TRITON_PORTS, Settings

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
ANSWER_TIMEOUT_S = 10.0
"""How long a Triton that is not ours may take until it first answers."""


class ServeError(Exception):
    """Serving can't start or can't go on; the text is what the user is told."""


def serve(settings: Settings, formats: Sequence[str], say: Callable[[str], None]) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP; then end everything that was started.

    With a configuration file SIGHUP ends nothing: the gateway rereads that file.

    `formats` are further formats whose ensembles are loaded beside the default one's. `say` gets
    what the user should read. Raises ServeError, TritonError, PortTakenError or RepositoryError
    where serving can't start or a child ended, after ending the rest.
    """
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, lambda *_: stopping.set())
    rereading = threading.Event()
    if settings.config_file is not None:
        signal.signal(signal.SIGHUP, lambda *_: rereading.set())
    ports.check_free(settings.host, settings.port, "PORT")
    triton: TritonServer | None = None
    gateway: subprocess.Popen[bytes] | None = None
    began = time.monotonic()
    try:
        url = settings.triton_url
        if settings.triton_secret is None:
            drawn = secrets.token_hex(32) if url is None else leftovers.secret_at(url)
            secret = None if drawn is None else SecretStr(drawn)
            settings = settings.model_copy(update={"triton_secret": secret})
        if url is None:
            triton = start_triton(settings, formats)
            url = f"http://127.0.0.1:{settings.triton_http_port}"
        gateway = _start_gateway(settings, url)
        if _wait_ready(settings, triton, gateway, stopping):
            taken = time.monotonic() - began
            say(_summary(settings, url, embedded=triton is not None, seconds=taken))
            while not stopping.wait(0.2):
                _check_alive(triton, gateway)
                if rereading.is_set():
                    rereading.clear()
                    gateway.send_signal(signal.SIGHUP)
        say("stopping")
    finally:
        if gateway is not None:
            _stop_gateway(gateway)
        if triton is not None:
            triton.stop()


def start_triton(settings: Settings, formats: Sequence[str] = ()) -> TritonServer:
    """Start the embedded Triton with the repository's ensembles.

    All versions in their default format, and those in `formats` besides. Raises RepositoryError
    where the repository is missing, damaged, or has no active version, TritonError where a GPU is
    asked for and can't be used.
    """
    if settings.use_gpu:
        gpu.check_gpu()
    root = Path(settings.model_repository)
    names = repository.ensembles(root)
    active_version = repository.active_version(root)
    if active_version is None:
        raise repository.RepositoryError(
            f"{root}: no active version; `carlarl export` makes one active"
        )
    if repository.flavour(root) == "native":
        raise repository.RepositoryError(
            f"{root}: it is of the native flavour, for a stock Triton's C++ backends, which the "
            "embedded one lacks: `carlarl export` writes the Python flavour into another folder"
        )
    pinned = settings.model_version
    if pinned is not None and configs.ensemble_name(pinned) not in names:
        held = ", ".join(one.version for one in repository.versions(root))
        raise repository.RepositoryError(
            f"MODEL_VERSION={pinned}: {root} does not hold it; it holds {held}"
        )
    wanted = (f"{configs.ALIAS}-", *(f"{configs.ALIAS}_{form}-" for form in formats))
    loaded = [name for name in names if name == configs.ALIAS or name.startswith(wanted)]
    active = configs.ensemble_name(pinned or active_version, configs.FUSED)
    loaded += [active] if (root / active).is_dir() else []
    gpu_format = gpu.chosen_format(root, pinned or active_version) if settings.use_gpu else None
    for name in TRITON_PORTS:
        ports.check_free("127.0.0.1", getattr(settings, name), name.upper())
    return TritonServer(
        root.resolve(),
        loaded,
        http=settings.triton_http_port,
        grpc=settings.triton_grpc_port,
        metrics=settings.triton_metrics_port,
        gpu_format=gpu_format,
        secret=settings.triton_token,
    )


def _start_gateway(settings: Settings, triton_url: str) -> subprocess.Popen[bytes]:
    """Start the gateway, which reads environment and configuration file by itself."""
    own = {"TRITON_URL": triton_url}
    if settings.triton_token is not None:
        own["TRITON_SECRET"] = settings.triton_token
    return subprocess.Popen(
        [sys.executable, "-m", "gateway"],
        env=os.environ | own,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )


def _stop_gateway(gateway: subprocess.Popen[bytes]) -> None:
    gateway.terminate()
    try:
        gateway.wait(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        gateway.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(gateway.pid, signal.SIGKILL)  # workers of a killed master
    gateway.wait()


def _wait_ready(
    settings: Settings,
    triton: TritonServer | None,
    gateway: subprocess.Popen[bytes],
    stopping: threading.Event,
) -> bool:
    """Wait until the gateway is ready, every worker of it; False where a signal came first."""
    began = time.monotonic()
    url = settings.gateway_url
    patience = START_TIMEOUT_S if settings.triton_url is None else ANSWER_TIMEOUT_S
    # Which worker answers is chance: ask on connections of their own, until that many said yes.
    wanted = 1 if settings.workers == 1 else 4 * settings.workers
    ready, reason = 0, "it did not listen"
    while time.monotonic() < began + patience:
        _check_alive(triton, gateway)
        if patience < START_TIMEOUT_S and _answers(settings.triton_url):
            patience = START_TIMEOUT_S
        try:
            # The certificate is for the name that others know; here it is our own child.
            answer = httpx.get(f"{url}/readyz", timeout=2.0, trust_env=False, verify=False)
        except httpx.TransportError:
            ready = 0
        else:
            ready = ready + 1 if answer.status_code == httpx.codes.OK else 0
            if ready == wanted:
                return True
            reason = answer.json().get("message", reason)
        if stopping.wait(0.0 if ready else 0.05):
            return False
    raise ServeError(f"the gateway was not ready within {patience:.0f} s: {reason}")


def _check_alive(triton: TritonServer | None, gateway: subprocess.Popen[bytes]) -> None:
    if triton is not None and (status := triton.exit_code()) is not None:
        raise ServeError(
            f"Triton ended with status {status}; the end of its log:\n{triton.log_tail()}"
        )
    if gateway.poll() is not None:
        raise ServeError(f"the gateway ended with status {gateway.returncode}; see its log above")


def _answers(triton_url: str | None) -> bool:
    """Whether anybody answers there, whatever they say."""
    try:
        httpx.get(f"{triton_url}/v2/health/live", timeout=1.0, trust_env=False)
    except httpx.TransportError:
        return False
    return True


def _summary(settings: Settings, triton_url: str, *, embedded: bool, seconds: float) -> str:
    url = settings.gateway_url
    # Where a key is asked for, this command has none and the gateway will not say.
    metadata: dict[str, Any] = {}
    if settings.api_keys_file is None:
        metadata = httpx.get(f"{url}/metadata", trust_env=False, verify=False).json()
    name, version = metadata.get("modelName", ""), metadata.get("version", "")
    sensors = [0.8, 0.2, 0.5, 0.9, 0.1]
    if metadata.get("sensors", 5) != 5:
        sensors = [0.5] * metadata["sensors"]
    observation = {"speed": 25.5, "steering": 0.1, "sensors": sensors}
    body = json.dumps({"observations": [observation], "deterministic": True})
    key = "" if settings.api_keys_file is None else " -H 'X-API-Key: YOUR KEY'"
    insecure = "" if settings.ssl_certfile is None else "k"  # asked by address, not by name
    docs = [] if settings.docs_access == "closed" else [f"API docs at {url}/docs"]
    metrics = [] if settings.metrics_access == "closed" else [f"metrics at {url}/metrics"]
    pages = ", ".join(docs + metrics)
    lines = [
        f"serving {name} {version} after {seconds:.1f} s".replace("  ", ""),
        f"  gateway       {url}{pages and f'  ({pages})'}",
        f"  Triton HTTP   {triton_url}",
    ]
    if embedded:
        lines += [
            f"  Triton gRPC   127.0.0.1:{settings.triton_grpc_port}",
            f"  Triton stats  http://127.0.0.1:{settings.triton_metrics_port}/metrics",
        ]
    lines += [
        "try:",
        f"  curl -s{insecure} {url}/predict -H 'Content-Type: application/json'{key} -d '{body}'",
        "Ctrl-C ends it.",
    ]
    return "\n".join(lines)
