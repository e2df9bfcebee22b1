"""Inference requests that tell a hung model from one that works."""

from __future__ import annotations

import contextlib
import json
import math
import threading
from typing import Any

import httpx

from gateway.triton.client import SECRET_HEADER

PROBE_S = 5.0
"""Seconds between the requests to a model."""
HUNG_S = 15.0
"""How long a model may take for one inference of one row."""


class ModelProbe:
    """Asks each Python model that a Triton has loaded again and again, in a thread of its own.

    Any answer will do, an error too, unless Triton says twice in a row that the model's process is
    not healthy. The gateway asks only what it calls for the active version.
    """

    def __init__(self, port: int, secret: str | None) -> None:
        """Begin to ask the Triton on this HTTP port of this machine."""
        self.hung: str | None = None
        """What is wrong with a model that hangs; then no more is asked."""
        headers = {} if secret is None else {SECRET_HEADER: secret}
        url = f"http://127.0.0.1:{port}/v2"
        self._client = httpx.Client(base_url=url, headers=headers, timeout=HUNG_S, trust_env=False)
        self._unhealthy: set[str] = set()
        self._stopped = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()

    def _run(self) -> None:
        with self._client:
            while self.hung is None and not self._stopped.wait(PROBE_S):
                with contextlib.suppress(httpx.HTTPError):  # Triton starts or ends
                    self._ask_all()

    def _ask_all(self) -> None:
        before, self._unhealthy = self._unhealthy, set()
        index = self._client.post("/repository/index", json={"ready": True}).raise_for_status()
        for model in index.json():
            path = f"/models/{model['name']}/versions/{model['version']}"
            config = self._client.get(f"{path}/config").raise_for_status().json()
            if config.get("platform") == "ensemble":
                continue
            head, body = _zeros(config)
            size = {"Inference-Header-Content-Length": str(len(head))}
            named = f"the model {model['name']} version {model['version']}"
            try:
                answer = self._client.post(f"{path}/infer", content=head + body, headers=size)
            except httpx.ReadTimeout:
                self.hung = f"{named} has not answered for {HUNG_S:.0f} s"
                return
            if answer.is_error and "is not healthy" in answer.text:
                self._unhealthy.add(path)
                if path in before:
                    self.hung = f"the process of {named} is not healthy"
                    return


def _zeros(config: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return the head and the tensors of a request with one row of zeros for a model's config."""
    inputs, body = [], b""
    for tensor in config["input"]:
        if tensor.get("optional"):
            continue
        kind = tensor["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES")
        batch = [1] if config["max_batch_size"] else []
        shape = [*batch, *(max(1, int(size)) for size in tensor["dims"])]
        element = {"BYTES": 4, "BOOL": 1}.get(kind) or int(kind.lstrip("BFPUINT")) // 8
        data = bytes(math.prod(shape) * element)
        more = {"binary_data_size": len(data)}
        inputs.append(
            {"name": tensor["name"], "datatype": kind, "shape": shape, "parameters": more}
        )
        body += data
    return json.dumps({"inputs": inputs}).encode(), body
