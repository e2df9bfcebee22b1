"""The only module that knows Triton's protocol: HTTP with the binary tensor extension."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import numpy as np
from numpy.typing import NDArray
from tritonclient.http import InferInput
from tritonclient.http.aio import InferenceServerClient
from tritonclient.utils import (
    InferenceServerException,
    np_to_triton_dtype,
)

from gateway.errors import (
    DeadlineExceeded,
    GatewayError,
    InferenceFailed,
    ModelNotFound,
    ResourceExhausted,
    ServiceUnavailable,
)

MAX_CONNECTIONS = 1024

log = logging.getLogger(__name__)


class Triton:
    """One Triton server, over connections that are kept for the life of the process.

    Every method raises ServiceUnavailable where Triton is away or the model is not ready,
    ModelNotFound where there is no such model, DeadlineExceeded where no answer came in
    time, ResourceExhausted where its queue is full, InferenceFailed for any other failure.
    """

    def __init__(self, url: str) -> None:
        """Take `http://host:port`; the first call connects."""
        self._address = url.removeprefix("http://").rstrip("/")
        self._connected: InferenceServerClient | None = None

    @property
    def _client(self) -> Any:
        # Made at first use because it binds itself to the running event loop.
        if self._connected is None:
            self._connected = InferenceServerClient(self._address, conn_limit=MAX_CONNECTIONS)
        return self._connected

    async def infer(
        self, model: str, tensors: Mapping[str, NDArray[Any]], timeout_s: float
    ) -> NDArray[np.float32]:
        """Run `model` once and give back its output `action`, [rows, 3]."""
        inputs = []
        for name, tensor in tensors.items():
            tensor_input = InferInput(name, tensor.shape, np_to_triton_dtype(tensor.dtype))
            inputs.append(tensor_input.set_data_from_numpy(tensor))
        async with _errors_mapped(model, timeout_s):
            result = await self._client.infer(model, inputs)
            action: NDArray[np.float32] | None = result.as_numpy("action")
        if action is None:
            raise InferenceFailed(f"{model} gave no output named action")
        return action

    async def config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """Read the configuration of `model` as Triton has it loaded."""
        async with _errors_mapped(model, timeout_s):
            config: dict[str, Any] = await self._client.get_model_config(model)
        return config

    async def ready(self, model: str, timeout_s: float) -> bool:
        """Whether `model` can be called; false too where Triton is away.

        Raises DeadlineExceeded where Triton does not say, as while it loads a model.
        """
        try:
            async with _errors_mapped(model, timeout_s):
                return bool(await self._client.is_model_ready(model))
        except DeadlineExceeded:
            raise
        except GatewayError:
            return False

    async def index(self, timeout_s: float) -> list[str]:
        """List the names of the models that are ready."""
        async with _errors_mapped("the repository", timeout_s):
            entries = await self._client.get_model_repository_index()
            return [entry["name"] for entry in entries if entry.get("state") == "READY"]

    async def close(self) -> None:
        """Close the connections."""
        if self._connected is not None:
            await self._connected.close()


@asynccontextmanager
async def _errors_mapped(model: str, timeout_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as error:
        raise DeadlineExceeded("no answer from Triton within the deadline") from error
    except InferenceServerException as error:
        raise _answered(model, error) from error
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
        raise ServiceUnavailable("Triton is away") from error
    except (aiohttp.ClientError, ValueError, KeyError, TypeError) as error:
        log.error("Triton's answer about %s cannot be read", model, exc_info=error)
        raise InferenceFailed("Triton's answer cannot be read") from error


def _answered(model: str, error: Any) -> GatewayError:
    """Name the error that Triton answered with; its text may hold a trace, so it is only logged."""
    message = str(error.message())
    status = error.status()
    if "Exceeds maximum queue size" in message:
        return ResourceExhausted("Triton's queue is full")
    if "unknown model" in message and "is not found" in message:
        return ModelNotFound(f"Triton serves no {model}")
    if status == "503" or "unknown model" in message or "is not ready" in message:
        return ServiceUnavailable(f"{model} is not ready")
    log.error("Triton answered %s for %s: %s", status, model, message)
    return InferenceFailed(f"Triton answered with an error (status {status})")
