"""`python3 -m triton_backend.healthcheck [PORT]`: whether the Triton on this machine works.

Triton calls a model ready although its process hangs. So each is asked for an inference.
"""

import json
import math
import os
import sys
from collections import Counter
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

SECRET_HEADER = "carlarl-secret"
PORT = 8000
HUNG_S = 15.0
"""How long a model may take for one inference of one row."""


class HungError(Exception):
    """A model does not answer. The text names it."""


class Triton:
    """The HTTP API of a Triton on this machine."""

    def __init__(self, port: int = PORT, secret: str | None = None) -> None:
        """Take its port, and what its closed APIs ask for; each call connects."""
        self._port = port
        self._headers = {} if secret is None else {SECRET_HEADER: secret}
        self.probed: Counter[str] = Counter()
        """How often `probe` has asked each model."""

    def ask(self, path: str, body: Any = None) -> Any:
        """GET what is at `path` under `/v2`, or POST `body`. Raise OSError if that fails."""
        method, content = ("GET", b"") if body is None else ("POST", json.dumps(body).encode())
        status, answer = self._request(method, path, content)
        if status != 200:
            raise OSError(f"{path}: status {status}")
        return json.loads(answer) if answer else None

    def probe(self) -> set[str]:
        """Ask each Python model that is loaded for an inference; name those that are not healthy.

        Any answer will do, an error too, unless Triton says that the model's process is not
        healthy. Raises HungError if a model does not answer, OSError if Triton does not.
        """
        unhealthy = set()
        for model in self.loaded():
            path = f"/models/{model['name']}/versions/{model['version']}"
            config = self.ask(f"{path}/config")
            if config.get("platform") == "ensemble":
                continue
            head, body = _zeros(config)
            size = {"Inference-Header-Content-Length": str(len(head))}
            named = f"the model {model['name']} version {model['version']}"
            self.probed[model["name"]] += 1
            try:
                status, answer = self._request("POST", f"{path}/infer", head + body, size)
            except TimeoutError:
                raise HungError(f"{named} has not answered for {HUNG_S:.0f} s") from None
            if status != 200 and b"is not healthy" in answer:
                unhealthy.add(named)
        return unhealthy

    def loaded(self) -> list[dict[str, str]]:
        """Return `name` and `version` of each model that is loaded."""
        models: list[dict[str, str]] = self.ask("/repository/index", {"ready": True})
        return models

    def _request(
        self, method: str, path: str, body: bytes, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=HUNG_S)
        try:
            connection.request(method, f"/v2{path}", body, {**self._headers, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except HTTPException as error:
            raise OSError(f"{path}: {error!r}") from None
        finally:
            connection.close()


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


def main() -> int:
    """Return 0 if Triton and all its models answer, else 1, and print why."""
    secret = os.environ.get("TRITON_SECRET") or None
    try:
        if secret is not None and "/" in secret:  # a file with it
            secret = Path(secret).read_text().strip()
        unhealthy = Triton(int(sys.argv[1]) if sys.argv[1:] else PORT, secret).probe()
    except (OSError, HungError) as error:
        sys.stdout.write(f"{error}\n")
        return 1
    sys.stdout.writelines(f"the process of {one} is not healthy\n" for one in unhealthy)
    return 1 if unhealthy else 0


if __name__ == "__main__":
    sys.exit(main())
