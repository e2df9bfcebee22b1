"""Ways to call Triton, each with the interface of `gateway.triton.Triton.infer`.

The gateway uses its own minimal client; these are what it is compared with, for speed by
`python -m perf.fast_path` and for equal answers by the tests.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import shared_memory

from carlarl.serving import cleanup
from gateway.rows import ACTION_BYTES, Rows
from gateway.triton import SECRET_HEADER, tensors_of

_DTYPES: dict[str, Any] = {"FP32": np.float32, "BOOL": np.bool_, "INT64": np.int64}


def control_headers(url: str) -> dict[str, str]:
    """Give what Triton's control APIs ask for at `url`: `carlarl serve` closes them to others."""
    secret = cleanup.secret_at(url)
    return {} if secret is None else {SECRET_HEADER: secret}


class HttpClient:
    """`tritonclient.http.aio`: the reference."""

    _module: Any = tritonclient.http
    _aio: Any = tritonclient.http.aio

    def __init__(self, address: str) -> None:
        """Take `host:port`."""
        self._client = self._aio.InferenceServerClient(address)

    async def infer(self, model: str, rows: Rows, timeout_s: float) -> bytes:
        """Run `model` once and give its output `action`, `ACTION_BYTES` for each row."""
        inputs = []
        for name, kind, data in tensors_of(model, rows):
            array = np.frombuffer(data, _DTYPES[kind]).reshape(rows.count, -1)
            one = self._module.InferInput(name, array.shape, kind)
            one.set_data_from_numpy(array)
            inputs.append(one)
        async with asyncio.timeout(timeout_s):
            result = await self._client.infer(model, inputs)
        action: np.ndarray[Any, Any] = result.as_numpy("action")
        return action.tobytes()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


class GrpcClient(HttpClient):
    """`tritonclient.grpc.aio`."""

    _module = tritonclient.grpc
    _aio = tritonclient.grpc.aio


class SharedMemoryClient(HttpClient):
    """`tritonclient.http.aio` with the tensors in system shared memory; one call at a time."""

    _SIZE = 1 << 16

    def __init__(self, address: str) -> None:
        """Take `host:port`; the first call makes and registers the two segments."""
        super().__init__(address)
        self._names = [f"carlarl_bench_{os.getpid()}_{way}" for way in ("in", "out")]
        self._segments: list[Any] = []
        self._headers = control_headers(f"http://{address}")

    async def _register(self) -> None:
        for name in self._names:
            segment = shared_memory.create_shared_memory_region(name, f"/{name}", self._SIZE)
            self._segments.append(segment)
            await self._client.register_system_shared_memory(
                name, f"/{name}", self._SIZE, headers=self._headers
            )

    async def infer(self, model: str, rows: Rows, timeout_s: float) -> bytes:
        """Run `model` once and give its output `action`, `ACTION_BYTES` for each row."""
        if not self._segments:
            await self._register()
        inputs, offset = [], 0
        for name, kind, data in tensors_of(model, rows):
            array = np.frombuffer(data, _DTYPES[kind]).reshape(rows.count, -1)
            shared_memory.set_shared_memory_region(self._segments[0], [array], offset)
            one = tritonclient.http.InferInput(name, array.shape, kind)
            one.set_shared_memory(self._names[0], len(data), offset)
            inputs.append(one)
            offset += len(data)
        size = rows.count * ACTION_BYTES
        output = tritonclient.http.InferRequestedOutput("action")
        output.set_shared_memory(self._names[1], size)
        async with asyncio.timeout(timeout_s):
            await self._client.infer(model, inputs, outputs=[output])
        action = shared_memory.get_contents_as_numpy(self._segments[1], np.float32, [rows.count, 3])
        return bytes(action.tobytes())

    async def close(self) -> None:
        """Take the segments back and close the connections."""
        for name in self._names if self._segments else []:
            await self._client.unregister_system_shared_memory(name, headers=self._headers)
        for segment in self._segments:
            shared_memory.destroy_shared_memory_region(segment)
        await super().close()
