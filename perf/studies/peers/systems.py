"""Which peers there are: what each needs, its own virtual environment, and how it is started."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from perf.load.generator import LoadError
from perf.load.observations import body
from perf.load.processes import ROOT, free_ports, server

VERSION = "v0.2.0"
TRITON_VERSION = "2000"
CACHE = Path("~/.cache/carlarl/peers").expanduser()
START_S = 120


@dataclass(frozen=True, eq=False)
class Peer:
    """One system. All take the JSON of `POST /predict`, and answer it in the same form.

    In its command and the values of its variables stand `{port}`, on which it is asked, `{second}`
    and `{third}`, other free ports, `{folder}`, where it may write, and `{cores}`.
    """

    name: str
    requirements: tuple[str, ...]
    command: str
    """A program of its environment, and arguments."""
    variables: Mapping[str, str] = field(default_factory=dict)
    model: str = "policy_onnx-{name}/{number}/model.onnx"
    """The policy's file, in the model repository."""
    environment: Path | None = None
    """Where it is installed; None for a folder of its own in CACHE."""

    def install(self, cache: Path = CACHE) -> Path:
        """Return the folder of its environment, made where it is not there. Raises LoadError."""
        if self.environment:
            return self.environment
        folder = cache / self.name
        note = folder / "carlarl-requirements.txt"
        python = f"# Python {sys.version_info[0]}.{sys.version_info[1]}"
        wanted = "\n".join([python, *self.requirements])
        if note.is_file() and note.read_text() == wanted:
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-cache-dir"]
        for command in (
            [sys.executable, "-m", "venv", str(folder)],
            [*pip, "--disable-pip-version-check", *self.requirements],
        ):
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            if done.returncode:
                said = " ".join((done.stderr or done.stdout).split())
                raise LoadError(f"can't be installed: {said[-300:]}")
        note.write_text(wanted)
        return folder

    @contextmanager
    def running(self) -> Iterator[str]:
        """Run it in a folder of its own until the block ends; gives its URL once it predicts.

        It is installed where it is not there. Raises LoadError.
        """
        environment = self.install()
        ports = zip(("port", "second", "third"), free_ports(3), strict=True)
        repository = ROOT / "model_repository"
        with tempfile.TemporaryDirectory(prefix="carlarl-", ignore_cleanup_errors=True) as folder:
            places = {**dict(ports), "folder": folder, "cores": os.cpu_count()}
            statistics = f"preprocess-{VERSION}/{TRITON_VERSION}/preprocessing.json"
            variables = {
                **{k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"},
                "PATH": f"{environment / 'bin'}:{os.environ.get('PATH', '')}",
                "TMPDIR": folder,
                "PYTHONPATH": f"{ROOT}:{ROOT / 'perf' / 'studies'}",
                "VERSION": VERSION,
                "MODEL": str(repository / self.model.format(name=VERSION, number=TRITON_VERSION)),
                "PREPROCESSING": str(repository / statistics),
                "PORT": str(places["port"]),
                "OMP_NUM_THREADS": "1",
                **{name: value.format_map(places) for name, value in self.variables.items()},
            }
            program, *arguments = shlex.split(self.command.format_map(places))
            command = [str(environment / "bin" / program), *arguments]
            url = f"http://127.0.0.1:{places['port']}"
            with server(command, lambda: _predicts(url), variables, Path(folder), START_S):
                yield url


def _predicts(url: str) -> bool:
    try:
        answer = httpx.post(f"{url}/predict", json=body(), timeout=5, trust_env=False)
    except httpx.TransportError:
        return False
    return answer.status_code == 200


_ONNX = ("onnxruntime==1.32.0", "numpy==2.4.6")
_FASTAPI = ("fastapi==0.165.0", "uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0")
_UVICORN = (
    "uvicorn peers.fastapi_app:app --port={port} --workers={cores} --loop=uvloop --http=httptools "
    "--no-access-log"
)

_ALL = (
    Peer("fastapi_onnxruntime", (*_FASTAPI, *_ONNX), _UVICORN),
    Peer(
        "fastapi_torchscript",
        (*_FASTAPI, "torch==2.13.0", "numpy==2.4.6"),
        _UVICORN,
        model="policy_torchscript-{name}/{number}/model.pt",
    ),
    Peer("litserve", ("litserve==0.2.19", *_ONNX), "python -m peers.litserve"),
    Peer(
        "bentoml",
        ("bentoml==1.4.39", *_ONNX),
        "bentoml serve peers.bentoml:PolicyService --host=127.0.0.1 --port={port}",
        {"BENTOML_DO_NOT_TRACK": "True"},
    ),
    Peer(
        "rayserve",
        ("ray[serve]==2.60.0", *_ONNX),
        "python -m peers.rayserve",
        {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_TMPDIR": "{folder}",
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "{folder}/haproxy.cfg",
            "RAY_SERVE_HAPROXY_SOCKET_PATH": "{folder}/haproxy.sock",
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "{folder}",
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "{folder}/haproxy-state",
            "RAY_SERVE_HAPROXY_METRICS_PORT": "{second}",
            "RAY_SERVE_HAPROXY_STATS_PORT": "{third}",
            "RAY_USAGE_STATS_ENABLED": "0",
        },
    ),
    Peer(
        "mlserver",
        ("mlserver==1.7.1", *_ONNX),
        "mlserver start .",
        {
            "MLSERVER_MODEL_NAME": "policy",
            "MLSERVER_MODEL_IMPLEMENTATION": "peers.mlserver.PolicyRuntime",
            "MLSERVER_HOST": "127.0.0.1",
            "MLSERVER_HTTP_PORT": "{port}",
            "MLSERVER_GRPC_PORT": "{second}",
            "MLSERVER_METRICS_PORT": "{third}",
            "MLSERVER_PARALLEL_WORKERS": "0",
            "MLSERVER_GZIP_ENABLED": "false",
        },
    ),
)
PEERS = {peer.name: peer for peer in _ALL}
