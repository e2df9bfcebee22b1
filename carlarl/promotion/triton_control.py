"""The part of Triton's API that a promotion needs: list, load and call models.

All calls use HTTP, as the gateway does, except loading. A load over HTTP blocks one of Triton's
HTTP threads, and with it every connection of that thread. A load over gRPC blocks nobody.
"""

import json
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import numpy as np
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from carlarl.errors import CommandError
from carlarl.serving import running
from converters.errors import one_line
from converters.repository import configs
from gateway.triton.client import ECHO, NONCE, SECRET_HEADER
from policy_spec.leaves import Layout
from policy_spec.signature import EPISODE_START, Signature
from policy_spec.validate import pack

LOAD_TIMEOUT_S = 300.0
READY_TIMEOUT_S = 60.0

_CLOSED = (
    "this Triton is closed to callers without its secret: run the command as the user who runs "
    "`carlarl serve`, on the same machine, or set TRITON_SECRET"
)


class ControlError(CommandError):
    """Triton refused or failed. The text gives Triton's own reason."""


class TritonControl:
    """One Triton server in explicit model control mode. Every method may raise ControlError."""

    def __init__(self, url: str, secret: str | None = None, grpc_port: int = 8001) -> None:
        """Take `http://host:port`, the secret of its closed APIs, and its gRPC port on that host.

        The first call connects. If an embedded Triton runs on that HTTP port of this machine, its
        own gRPC port is used and, without `secret`, its own secret.
        """
        self.url = url.rstrip("/")
        self.pinned: str | None = None
        """The version that its gateway answers with whatever is active, if that is known."""
        timeout = httpx.Timeout(LOAD_TIMEOUT_S, connect=5.0)
        self._client = httpx.Client(base_url=self.url, timeout=timeout, trust_env=False)
        host = urlsplit(self.url).hostname or ""
        if (served := running.embedded_at(self.url)) is not None:
            grpc_port, secret = served.grpc_port, secret or served.secret
        self._grpc_url = f"[{host}]:{grpc_port}" if ":" in host else f"{host}:{grpc_port}"
        self._grpc = tritonclient.grpc.InferenceServerClient(
            self._grpc_url, channel_args=[("grpc.enable_http_proxy", 0)]
        )
        self._grpc_headers: dict[str, str] = {}
        if secret is not None:
            self._client.headers[SECRET_HEADER] = secret
            self._grpc_headers[f"triton-grpc-protocol-{SECRET_HEADER}"] = secret

    def __enter__(self) -> Self:
        """Return the server itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the connections."""
        self._client.close()
        self._grpc.close()

    def answers(self) -> bool:
        """Whether a Triton server answers."""
        try:
            return self._client.get("/v2/health/live", timeout=5.0).is_success
        except httpx.HTTPError:
            return False

    def models(self) -> dict[str, bool]:
        """Return all models in the server's repository, by name: whether each is loaded."""
        index = self._ask("POST", "/v2/repository/index")
        return {str(one["name"]): one.get("state") == "READY" for one in index}

    def load(self, model: str) -> None:
        """Load `model`, or load it again if its files have changed."""
        self._control(self._grpc.load_model, model)

    def unload(self, model: str) -> None:
        """Unload `model` after the requests that it has; its steps stay loaded."""
        self._control(self._grpc.unload_model, model)

    def _control(self, change: Callable[..., None], model: str) -> None:
        try:
            change(model, self._grpc_headers, client_timeout=LOAD_TIMEOUT_S)
        except InferenceServerException as error:
            said = one_line(error.message())
            if "protocol is restricted" in said:
                raise ControlError(_CLOSED) from None
            if error.status() == "StatusCode.UNAVAILABLE":
                raise ControlError(
                    f"no answer at {self._grpc_url}, where models are loaded by gRPC; set "
                    f"TRITON_GRPC_PORT to the gRPC port of {self.url} ({said})"
                ) from None
            raise ControlError(said) from None

    def load_ready(self, model: str) -> None:
        """Load `model` as `load` does, and wait until it can be called."""
        self.load(model)
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self._request("GET", f"/v2/models/{model}/ready").is_success:
            if time.monotonic() > deadline:
                raise ControlError(f"{model} was not ready within {READY_TIMEOUT_S:.0f} s")
            time.sleep(0.05)

    def parameters(self, model: str) -> dict[str, str]:
        """Return the parameters in the config of `model` as it is loaded."""
        config = self._ask("GET", f"/v2/models/{model}/config")
        told = config.get("parameters", {})
        return {name: str(entry["string_value"]) for name, entry in told.items()}

    def act(self, model: str, observations: Sequence[Any]) -> NDArray[np.float64]:
        """Return the deterministic actions of an ensemble or a fused model, shape (n, elements).

        Observations are in JSON form; an episode starts with each. The answer must have the nonce
        that was sent, if the model gives it back.
        """
        fused = configs.ensemble_name("", configs.FUSED)
        card = self.parameters(model.replace(fused, configs.ensemble_name("")))["model_card"]
        signature = Signature.from_card(json.loads(card))
        space = signature.observation_space
        rows: list[Any] = [pack(space, one) for one in observations]
        if model.startswith(fused):
            rows = [Layout.of(space).join(row) for row in rows]
        nonce = np.full((len(rows), 1), secrets.randbits(62), np.int64)
        yes = np.ones_like(nonce, bool)
        given = {"deterministic": yes, "seed": 0 * nonce, NONCE: nonce, EPISODE_START: yes}
        for leaf in signature.state:
            given[leaf.tensor] = np.zeros((len(rows), *leaf.shape), leaf.dtype)
        inputs = []
        config = self._ask("GET", f"/v2/models/{model}/config")
        for told in config["input"]:
            name, kind = told["name"], told["data_type"].removeprefix("TYPE_")
            values = given.get(name)
            if name in rows[0]:
                content = b"".join(row[name] for row in rows)
                values = np.frombuffer(content, triton_to_np_dtype(kind))
            if values is not None:
                shape = [len(rows), *map(int, told["dims"])]
                inputs.append(tritonclient.http.InferInput(name, shape, kind))
                inputs[-1].set_data_from_numpy(values.reshape(shape))
        wanted = [
            tritonclient.http.InferRequestedOutput(one["name"], binary_data=False)
            for one in config["output"]
            if one["name"] in ("action", ECHO)
        ]
        client = tritonclient.http.InferenceServerClient
        body, length = client.generate_request_body(inputs, wanted)
        headers = {"Inference-Header-Content-Length": str(length)}
        answer = self._ask("POST", f"/v2/models/{model}/infer", content=body, headers=headers)
        outputs = {one["name"]: one["data"] for one in answer["outputs"]}
        if outputs.get(ECHO, nonce.ravel().tolist()) != nonce.ravel().tolist():
            raise ControlError(f"{model} gave the answer of another call: restart the server")
        return np.array(outputs["action"], np.float64).reshape(len(rows), -1)

    def _request(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        try:
            return self._client.request(method, path, json=body, **more)
        except httpx.HTTPError as error:
            raise ControlError(f"{self.url}: no answer: {error}") from None

    def _ask(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        answer = self._request(method, path, body, **more)
        try:
            content = answer.json() if answer.content else None
        except json.JSONDecodeError:
            raise ControlError(f"{self.url}{path}: status {answer.status_code}, no JSON") from None
        if answer.status_code == httpx.codes.FORBIDDEN:
            raise ControlError(_CLOSED)
        if answer.is_error:
            reason = content.get("error") if isinstance(content, dict) else None
            raise ControlError(one_line(reason or f"status {answer.status_code}"))
        return content
