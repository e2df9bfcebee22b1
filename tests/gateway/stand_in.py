"""A stand-in that speaks a little of Triton's protocol, and misbehaves when told to."""

import json
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler

import numpy as np

from policy_spec.dtypes import DTYPES
from tests.gateway.driving import CARD
from tests.gateway.processes import OBSERVATION, held_port
from tests.http_server import HttpServer

ACTION = (0.5, 0.25, -0.125)
OUTPUTS = {"action": np.array(ACTION, np.float32)}
GOLDEN = {**OBSERVATION, "speed": 31.25}
"""What only the gateway itself asks about."""


class StandIn:
    """Speaks just enough of Triton's HTTP protocol to be told how to misbehave.

    A real Triton can't be made to give, on demand, an action that is not finite, a full
    queue, an answer that never comes or an answer that cannot be read. Everything that a
    real one can be made to do is tested on a real one, in `test_contract.py`.
    """

    def __init__(
        self,
        card: Mapping[str, object] = CARD,
        golden: object = GOLDEN,
        outputs: Mapping[str, np.ndarray] = OUTPUTS,
    ) -> None:
        """Take the card of the policy, its golden observation, and what each row is answered."""
        self.card, self.golden, self.outputs = card, golden, outputs
        self.mode = "ok"
        self.active = "v0.2.0"
        self.served = {"v0.1.0", "v0.2.0"}
        self.golden_action = outputs["action"].tolist()
        self.calls: list[dict[str, np.ndarray]] = []
        self.heads: list[dict[str, str]] = []
        self.go = threading.Event()
        """What calls of callers wait for in the mode `held`."""
        self._server: HttpServer | None = None
        self.port = held_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                stand_in._get(self)

            def do_POST(self) -> None:
                stand_in._post(self)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = HttpServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self._server = None

    def _get(self, handler: BaseHTTPRequestHandler) -> None:
        if self._server is None:  # A kept connection of a server that was stopped.
            handler.close_connection = True
            return
        model, last = handler.path.split("/")[3:5]
        version = self.active if model == "carla_policy" else model.removeprefix("carla_policy-")
        if last == "ready":
            _reply(handler, 200 if version in self.served else 400, b"")
        elif model == "policy":
            _reply_json(handler, 200, {"instance_group": [{"kind": "KIND_CPU"}]})
        elif version not in self.served:
            error = f"Request for unknown model: '{model}' is not found"
            _reply_json(handler, 404, {"error": error})
        else:
            _reply_json(handler, 200, self._config(model, version))

    def _config(self, model: str, version: str) -> dict:
        golden = {
            "observations": [self.golden, self.golden],
            "actions": [self.golden_action] * 2,
            "tolerance": 1e-5,
        }
        parameters = {
            "version": version,
            "artifact_digest": "sha256:" + "0" * 64,
            "format": "onnx",
            "formats": "onnx,torchscript",
            "model_card": json.dumps(
                {
                    **self.card,
                    "description": "stand-in",
                    "model_name": "m",
                    "performance_metrics": {"x": 1},
                }
            ),
            "golden": json.dumps(golden),
        }
        return {
            "name": model,
            "max_batch_size": 256,
            "output": [{"name": name} for name in self.outputs],
            "parameters": {name: {"string_value": value} for name, value in parameters.items()},
            "ensemble_scheduling": {"step": [{"model_name": "policy"}]},
        }

    def _post(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        if handler.path.endswith("/index"):
            entries = [{"name": f"carla_policy-{v}", "state": "READY"} for v in self.served]
            entries += [{"name": "carla_policy-v9.0.0", "state": "UNAVAILABLE"}]
            _reply_json(handler, 200, entries)
            return
        model = handler.path.split("/")[3]
        if model.removeprefix("carla_policy-") not in self.served:
            error = f"Request for unknown model: '{model}' is not found"
            _reply_json(handler, 404, {"error": error})
            return
        tensors = _tensors(body, int(handler.headers["Inference-Header-Content-Length"]))
        if "speed" not in tensors or (tensors["speed"] != GOLDEN["speed"]).any():
            self.calls.append(tensors)
            self.heads.append(dict(handler.headers))
            if self.mode == "held":
                self.go.wait(60)
        rows = len(tensors["row"])
        given = {name: np.tile(one, (rows, 1)) for name, one in self.outputs.items()}
        actions = given["action"]
        if self.mode == "hang":
            time.sleep(3)
        elif self.mode == "closed":
            handler.close_connection = True
            return
        elif self.mode == "garbage":
            _reply(handler, 200, b"<html>")
            return
        elif self.mode.startswith("status "):
            _, code, message = self.mode.split(" ", 2)
            _reply_json(handler, int(code), {"error": message})
            return
        elif self.mode == "shape":
            given["action"] = actions[:, :2]
        elif self.mode == "type":
            given["action"] = actions.astype(np.int32)
        elif self.mode in ("nan", "inf"):
            actions[-1, -1] = float(self.mode)
        _reply_tensors(handler, given)


def _tensors(body: bytes, header: int) -> dict[str, np.ndarray]:
    types = {one.triton: np.dtype(name) for name, one in DTYPES.items()} | {"BOOL": np.dtype(bool)}
    tensors = {}
    offset = header
    for entry in json.loads(body[:header])["inputs"]:
        size = entry["parameters"]["binary_data_size"]
        flat = np.frombuffer(body[offset : offset + size], types[entry["datatype"]])
        tensors[entry["name"]] = flat.reshape(entry["shape"])
        offset += size
    return tensors


def _reply(handler: BaseHTTPRequestHandler, code: int, body: bytes, **headers: str) -> None:
    handler.send_response(code)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def _reply_json(handler: BaseHTTPRequestHandler, code: int, content: object) -> None:
    _reply(handler, code, json.dumps(content).encode())


def _reply_tensors(handler: BaseHTTPRequestHandler, given: Mapping[str, np.ndarray]) -> None:
    types = {np.dtype(name): one.triton for name, one in DTYPES.items()}
    outputs = [
        {
            "name": name,
            "datatype": types[one.dtype],
            "shape": list(one.shape),
            "parameters": {"binary_data_size": one.nbytes},
        }
        for name, one in reversed(given.items())  # Triton keeps to no order
    ]
    data = b"".join(one.tobytes() for one in reversed(given.values()))
    head = json.dumps({"model_name": "m", "model_version": "1", "outputs": outputs}).encode()
    _reply(handler, 200, head + data, Inference_Header_Content_Length=str(len(head)))
