"""Which peers there are: what each needs, and how it is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[3]
VERSION = "v0.2.0"
TRITON_VERSION = "2000"


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

    def environment(self, places: Mapping[str, object]) -> dict[str, str]:
        """Give the environment variables that it needs."""
        repository = ROOT / "model_repository"
        preprocess = f"preprocess-{VERSION}/{TRITON_VERSION}/preprocessing.json"
        model = self.model.format(name=VERSION, number=TRITON_VERSION)
        return {
            "PYTHONPATH": f"{ROOT}:{ROOT / 'perf' / 'studies'}",
            "VERSION": VERSION,
            "MODEL": str(repository / model),
            "PREPROCESSING": str(repository / preprocess),
            "PORT": str(places["port"]),
            "OMP_NUM_THREADS": "1",
            **{name: value.format_map(places) for name, value in self.variables.items()},
        }


_ONNX = ("onnxruntime==1.32.0", "numpy==2.4.6")
_FASTAPI = ("fastapi==0.165.0", "uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0")
_UVICORN = "--port={port} --workers={cores} --loop=uvloop --http=httptools --no-access-log"

_ALL = (
    Peer(
        "fastapi_onnxruntime",
        (*_FASTAPI, *_ONNX),
        f"uvicorn peers.fastapi_onnxruntime:app {_UVICORN}",
    ),
    Peer(
        "fastapi_torchscript",
        (*_FASTAPI, "torch==2.13.0", "numpy==2.4.6"),
        f"uvicorn peers.fastapi_torchscript:app {_UVICORN}",
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
