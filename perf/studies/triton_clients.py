"""Ways to call Triton by `tritonclient`, all with one interface.

The gateway has a minimal client of its own; `python -m perf.studies.layers` compares its speed with
these, and the tests compare the answers.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import shared_memory

ACTION_BYTES = 12
_DTYPES: dict[str, Any] = {"FP32": np.float32, "BOOL": np.bool_, "INT64": np.int64}

Tensor = tuple[str, str, bytes]
"""Name, Triton's data type, and the bytes of all rows: what `gateway.triton.tensors_of` gives."""


class HttpClient:
    """`tritonclient.http.aio`: the reference."""

    _module: Any = tritonclient.http
    _aio: Any = tritonclient.http.aio

    def __init__(self, address: str) -> None:
        """Take `host:port`."""
        self._client = self._aio.InferenceServerClient(address)

    async def infer(self, model: str, inputs: Sequence[Tensor], rows: int) -> bytes:
        """Run `model` once and give its output `action`, `ACTION_BYTES` for each row."""
        asked = []
        for name, kind, data in inputs:
            array = np.frombuffer(data, _DTYPES[kind]).reshape(rows, -1)
            one = self._module.InferInput(name, array.shape, kind)
            one.set_data_from_numpy(array)
            asked.append(one)
        async with asyncio.timeout(5):
            result = await self._client.infer(model, asked)
        return bytes(result.as_numpy("action").tobytes())

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

    def __init__(self, address: str, secret: str) -> None:
        """Take `host:port` and TRITON_SECRET; the first call makes the two segments."""
        super().__init__(address)
        self._segments: dict[str, Any] = {}
        self._headers = {"carlarl-secret": secret}  # what Triton's control APIs ask for

    async def infer(self, model: str, inputs: Sequence[Tensor], rows: int) -> bytes:
        """Run `model` once and give its output `action`, `ACTION_BYTES` for each row."""
        given, taken = names = [f"carlarl_bench_{os.getpid()}_{way}" for way in ("in", "out")]
        for name in names if not self._segments else []:
            segment = shared_memory.create_shared_memory_region(name, f"/{name}", self._SIZE)
            self._segments[name] = segment
            register = self._client.register_system_shared_memory
            await register(name, f"/{name}", self._SIZE, headers=self._headers)
        asked, offset = [], 0
        for name, kind, data in inputs:
            array = np.frombuffer(data, _DTYPES[kind]).reshape(rows, -1)
            shared_memory.set_shared_memory_region(self._segments[given], [array], offset)
            one = tritonclient.http.InferInput(name, array.shape, kind)
            one.set_shared_memory(given, len(data), offset)
            asked.append(one)
            offset += len(data)
        output = tritonclient.http.InferRequestedOutput("action")
        output.set_shared_memory(taken, rows * ACTION_BYTES)
        async with asyncio.timeout(5):
            await self._client.infer(model, asked, outputs=[output])
        action = shared_memory.get_contents_as_numpy(self._segments[taken], np.float32, [rows, 3])
        return bytes(action.tobytes())

    async def close(self) -> None:
        """Take the segments back and close the connections."""
        for name, segment in self._segments.items():
            await self._client.unregister_system_shared_memory(name, headers=self._headers)
            shared_memory.destroy_shared_memory_region(segment)
        await super().close()
