"""`carlarl serve`: an embedded Triton and the gateway, started, watched and ended together."""

import contextlib
import json
import secrets
import shlex
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from carlarl.serving import gpu, ports, running
from carlarl.serving.gateway_process import GatewayProcess
from carlarl.serving.supervision import START_TIMEOUT_S, Keeper, ServeError
from carlarl.serving.triton_server import TritonServer
from converters.repository import activation, configs, preflight, repository, start
from converters.repository.repository import RepositoryError
from gateway.config.settings import TRITON_PORTS, Settings
from gateway.inference import damaged
from policy_spec.example import example

ANSWER_TIMEOUT_S = 10.0
"""How long a Triton that another command runs may take until it first answers."""
LOOK_S = 0.2
"""Seconds between looks at the processes."""
ASK_S = 1.0
"""Seconds between questions to the gateway."""
LONGEST_EXAMPLE = 2000
"""Characters of a command that is shown; /metadata shows an observation of any length."""


def serve(
    settings: Settings,
    formats: Sequence[str],
    folder: Path,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP. Then end everything that was started.

    With a configuration file SIGHUP ends nothing: the gateway reads that file again. What fails
    meanwhile is started again. `formats` are further formats whose ensembles Triton loads.
    `folder` is the service's own (`cleanup.own_folder`). `say` gets what the user should read,
    `warn` what failed. Raises CommandError or ConversionError if serving can't start or a part
    failed too often, after ending the rest.
    """
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, lambda *_: stopping.set())
    rereading = threading.Event()
    if settings.config_file is not None:
        signal.signal(signal.SIGHUP, lambda *_: rereading.set())
    ports.check_free(settings.host, settings.port, "PORT")
    url = settings.triton_endpoint
    if settings.triton_secret is None:  # one for all starts of this Triton
        drawn: str | None = secrets.token_hex(32)
        if settings.triton_url is not None:
            served = running.embedded_at(url)
            drawn = served and served.secret
        secret = None if drawn is None else SecretStr(drawn)
        settings = settings.model_copy(update={"triton_secret": secret})
    running.announce(folder, settings)
    tries = settings.restart_tries
    gateway = Keeper(lambda: GatewayProcess(folder, settings, url), tries, warn)
    triton = None
    if settings.triton_url is None:
        triton = Keeper(lambda: start_triton(folder, settings, formats, warn), tries, warn)
    parts = [gateway] if triton is None else [triton, gateway]
    began = time.monotonic()
    with _gateway_client(settings) as client:
        try:
            if _wait_ready(settings, client, parts, stopping):
                taken = time.monotonic() - began
                say(_summary(settings, client, url, embedded=triton is not None, seconds=taken))
                _watch(client, triton, gateway, stopping, rereading)
            say("stopping")
        finally:
            for part in reversed(parts):
                part.stop()


def start_triton(
    folder: Path,
    settings: Settings,
    formats: Sequence[str] = (),
    warn: Callable[[str], None] = lambda text: None,
) -> TritonServer:
    """Start the embedded Triton with the repository's ensembles, in the service's own `folder`.

    It loads what `converters.repository.start` plans, with the ensembles of `formats`. Versions
    that are damaged are left out: `warn` gets why, and so does the gateway. Raises RepositoryError
    if the repository is missing or has no active version, and TritonError if the settings ask for a
    GPU that can't be used.
    """
    if settings.use_gpu:
        gpu.check_gpu()
    root = Path(settings.model_repository)
    asked = [*settings.serve_versions, *filter(None, [settings.model_version])]
    planned = start.plan(root, settings.model_version, settings.serve_versions, formats)
    if repository.flavour(root) == "native":
        raise RepositoryError(
            f"{root}: it is of the native flavour, for the C++ backends of a stock Triton, and the "
            "embedded Triton has none: `carlarl export` writes the Python flavour into another "
            "folder"
        )
    for version, why in planned.damaged.items():
        warn(f"{version} is damaged and left out: {why}")
    damaged.tell(folder, {one: why.replace(f"{root}/", "") for one, why in planned.damaged.items()})
    preflight.compile_models(root)
    gpu_format = gpu.chosen_format(root, planned.active) if settings.use_gpu else None
    for name in TRITON_PORTS:
        ports.check_free("127.0.0.1", getattr(settings, name), name.upper())
    return TritonServer(
        folder,
        root,
        planned.models,
        http=settings.triton_http_port,
        grpc=settings.triton_grpc_port,
        metrics=settings.triton_metrics_port,
        gpu_format=gpu_format,
        needed=lambda: activation.wanted(root, asked),
        left_out=planned.damaged if repository.shared(root) else (),
        secret=settings.triton_token,
    )


def _gateway_client(settings: Settings) -> httpx.Client:
    """Return a client with a new connection for each request, so that any worker may answer."""
    return httpx.Client(
        base_url=settings.gateway_url,
        timeout=2.0,
        trust_env=False,
        verify=False,  # the certificate has a public name, and this is our own child
        limits=httpx.Limits(max_keepalive_connections=0),
    )


def _wait_ready(
    settings: Settings, client: httpx.Client, parts: Sequence[Keeper], stopping: threading.Event
) -> bool:
    """Wait until every worker of the gateway is ready. Return False if a signal came first."""
    began = time.monotonic()
    patience = START_TIMEOUT_S if settings.triton_url is None else ANSWER_TIMEOUT_S
    wanted = 1 if settings.workers == 1 else 4 * settings.workers  # answers, each by any worker
    ready, reason = 0, "it did not listen"
    while time.monotonic() < began + patience:
        for part in parts:
            part.look()
        if patience < START_TIMEOUT_S and _answers(settings.triton_url):
            patience = START_TIMEOUT_S
        try:
            answer = client.get("/readyz")
        except httpx.TransportError:
            ready = 0
        else:
            ready = ready + 1 if answer.status_code == httpx.codes.OK else 0
            if ready == wanted:
                for part in parts:
                    part.works()
                return True
            reason = answer.json().get("message", reason)
        if stopping.wait(0.0 if ready else 0.05):
            return False
    raise ServeError(f"the gateway was not ready within {patience:.0f} s: {reason}")


def _watch(
    client: httpx.Client,
    triton: Keeper | None,
    gateway: Keeper,
    stopping: threading.Event,
    rereading: threading.Event,
) -> None:
    """Start again what fails, until a signal comes; pass `rereading` on to the gateway.

    A part fails if its process ends, if the gateway does not answer for too long, or if the active
    version on an embedded Triton gives no golden action for too long.
    """
    parts = [gateway] if triton is None else [triton, gateway]
    answered = ready = asked = time.monotonic()
    while not stopping.wait(LOOK_S):
        for part in parts:
            part.look()
        if rereading.is_set() and isinstance(gateway.part, GatewayProcess):
            rereading.clear()
            gateway.part.reread()
        now = time.monotonic()
        if now < asked + ASK_S:
            continue
        asked = now
        try:
            answer = client.get("/readyz")
        except httpx.TransportError:
            if gateway.since is None:
                answered = now
            elif gateway.overdue(answered, now):
                gateway.fell(f"the gateway has not answered for {now - answered:.0f} s")
            continue
        answered = now
        if answer.status_code == httpx.codes.OK:
            ready = now
            for part in parts:
                part.works()
        elif triton is not None and triton.overdue(ready, now):
            reason = answer.json().get("message", "")
            triton.fell(f"Triton gave no golden action for {now - ready:.0f} s: {reason}")


def _answers(triton_url: str | None) -> bool:
    """Whether a server answers there, whatever it says."""
    try:
        httpx.get(f"{triton_url}/v2/health/live", timeout=1.0, trust_env=False)
    except httpx.TransportError:
        return False
    return True


def _summary(
    settings: Settings, client: httpx.Client, triton_url: str, *, embedded: bool, seconds: float
) -> str:
    url = settings.gateway_url
    # With API keys the gateway does not answer this command, which has none.
    metadata: dict[str, Any] = {}
    if settings.api_keys_file is None:
        with contextlib.suppress(httpx.HTTPError, ValueError):  # it serves all the same
            metadata = client.get("/metadata").json()
    name, version = metadata.get("modelName", ""), metadata.get("version", "")
    observation = metadata.get("exampleObservation")
    if observation is None and embedded:
        config = repository.read_config(Path(settings.model_repository), configs.ALIAS)
        observation = example(configs.signature(config).observation_space)
    body = shlex.quote(json.dumps({"observations": [observation], "deterministic": True}))
    key = "" if settings.api_keys_file is None else " -H 'X-API-Key: YOUR KEY'"
    insecure = "" if settings.ssl_certfile is None else "k"  # asked by address, not by name
    tried = f"curl -s{insecure} {url}/predict -H 'Content-Type: application/json'{key} -d {body}"
    if observation is None or len(tried) > LONGEST_EXAMPLE:
        tried = f"curl -s{insecure} {url}/metadata{key}"
    pages = {
        f"API docs at {url}/docs": settings.docs_access,
        f"metrics at {url}/metrics": settings.metrics_access,
        f"console at {url}/console": settings.console_access,
    }
    shown = ", ".join(page for page, access in pages.items() if access != "closed")
    lines = [
        f"serving {name} {version} after {seconds:.1f} s".replace("  ", ""),
        f"  gateway       {url}{shown and f'  ({shown})'}",
        f"  Triton HTTP   {triton_url}",
        f"  Triton gRPC   127.0.0.1:{settings.triton_grpc_port}",
        f"  Triton stats  http://127.0.0.1:{settings.triton_metrics_port}/metrics",
        "try:",
        f"  {tried}",
        "Ctrl-C ends it.",
    ]
    return "\n".join(lines if embedded else lines[:3] + lines[5:])
