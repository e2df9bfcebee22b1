"""Which peers there are: what each needs, and how it is started."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
VERSION = "v0.2.0"
TRITON_VERSION = "2000"


@dataclass(frozen=True)
class Place:
    """Where a peer may listen and write; only `port` is asked."""

    port: int
    others: tuple[int, int]
    folder: Path


@dataclass(frozen=True)
class Peer:
    """One system. All take the JSON of `POST /predict`, and answer it in the same form."""

    name: str
    requirements: tuple[str, ...]
    command: Callable[[Place], list[str]]
    """A program of its environment, and arguments."""
    variables: Callable[[Place], dict[str, str]] = lambda place: {}
    model: str = "policy_onnx/{version}/model.onnx"
    """The policy's file, in the model repository."""

    def environment(self, place: Place) -> dict[str, str]:
        """Give the environment variables that it needs."""
        repository = ROOT / "model_repository"
        model = self.model.format(version=TRITON_VERSION)
        return {
            "PYTHONPATH": f"{ROOT}:{ROOT / 'perf' / 'studies'}",
            "VERSION": VERSION,
            "MODEL": str(repository / model),
            "PREPROCESSING": str(repository / "preprocess" / TRITON_VERSION / "preprocessing.json"),
            "PORT": str(place.port),
            "OMP_NUM_THREADS": "1",
            **self.variables(place),
        }


_ONNX = ("onnxruntime==1.32.0", "numpy==2.4.6")
_FASTAPI = ("fastapi==0.165.0", "uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0")


def _uvicorn(app: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        flags = ["--loop=uvloop", "--http=httptools", "--no-access-log"]
        return ["uvicorn", app, f"--port={place.port}", f"--workers={os.cpu_count()}", *flags]

    return command


def _bentoml(place: Place) -> list[str]:
    where = ["--host=127.0.0.1", f"--port={place.port}"]
    return ["bentoml", "serve", "peers.bentoml:PolicyService", *where]


def _mlserver(place: Place) -> dict[str, str]:
    return {
        "MLSERVER_MODEL_NAME": "policy",
        "MLSERVER_MODEL_IMPLEMENTATION": "peers.mlserver.PolicyRuntime",
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": str(place.port),
        "MLSERVER_GRPC_PORT": str(place.others[0]),
        "MLSERVER_METRICS_PORT": str(place.others[1]),
        "MLSERVER_PARALLEL_WORKERS": "0",
        "MLSERVER_GZIP_ENABLED": "false",
    }


def _rayserve(place: Place) -> dict[str, str]:
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_TMPDIR": str(place.folder),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(place.folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(place.folder / "haproxy.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(place.folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(place.folder / "haproxy-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(place.others[0]),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(place.others[1]),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "fastapi_onnxruntime",
            (*_FASTAPI, *_ONNX),
            _uvicorn("peers.fastapi_onnxruntime:app"),
        ),
        Peer(
            "fastapi_torchscript",
            (*_FASTAPI, "torch==2.13.0", "numpy==2.4.6"),
            _uvicorn("peers.fastapi_torchscript:app"),
            model="policy_torchscript/{version}/model.pt",
        ),
        Peer(
            "litserve",
            ("litserve==0.2.19", *_ONNX),
            lambda place: ["python", "-m", "peers.litserve"],
        ),
        Peer(
            "bentoml",
            ("bentoml==1.4.39", *_ONNX),
            _bentoml,
            lambda place: {"BENTOML_DO_NOT_TRACK": "True"},
        ),
        Peer(
            "rayserve",
            ("ray[serve]==2.60.0", *_ONNX),
            lambda place: ["python", "-m", "peers.rayserve"],
            _rayserve,
        ),
        Peer(
            "mlserver",
            ("mlserver==1.7.1", *_ONNX),
            lambda place: ["mlserver", "start", "."],
            _mlserver,
        ),
    )
}
