"""Connections that keep to a call's deadline, whatever the other side does."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import ssl
from typing import Any

import httpcore
import httpx

from carlarl_client._core import Deadline
from carlarl_client._names import Names

PIECE = 16_384
"""Bytes that are written, or read and understood, between two looks at the clock."""


class Stream(httpcore.NetworkStream):
    """A connection; each wait ends at the deadline of the call, which httpcore gives as a timeout.

    What is written is held until an answer is read, so that a request leaves in one piece. An
    answer that is there while its request is still held is another's.
    """

    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        """Take the connection, and the deadline for what httpcore gives no timeout."""
        self._inner = inner
        self._deadline = deadline
        self.held = b""

    def read(self, max_bytes: int, timeout: Any = None) -> bytes:
        """Write what is held, and read."""
        deadline = timeout or self._deadline
        data, self.held = self.held, b""
        try:
            for start in range(0, len(data), PIECE):
                left = _left(deadline, httpcore.WriteTimeout)
                self._inner.write(data[start : start + PIECE], left)
        except httpcore.WriteError:
            pass  # It may have answered before it closed.
        return self._inner.read(min(max_bytes, PIECE), _left(deadline, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: Any = None) -> None:
        """Hold what is to be written."""
        self.held += buffer

    def close(self) -> None:
        """Close the connection."""
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: Any = None,
    ) -> Stream:
        """Go on over TLS."""
        deadline = timeout or self._deadline
        left = _left(deadline, httpcore.ConnectTimeout)
        return Stream(self._inner.start_tls(ssl_context, server_hostname, left), deadline)

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore asks for."""
        return self._inner.get_extra_info(info)


class Backend(httpcore.NetworkBackend):
    """Connects to a host's addresses in turn, each within its share of the time that is left."""

    def __init__(self) -> None:
        """Know no names yet."""
        self._names = Names()
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self, host: str, port: int, timeout: Any = None, *rest: Any, **options: Any
    ) -> Stream:
        """Connect; `timeout` is the `Deadline`."""
        try:
            addresses = self._names.addresses(host).result(timeout.left())
        except concurrent.futures.TimeoutError:
            raise httpcore.ConnectTimeout from None
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for number, address in enumerate(addresses):
            share = _left(timeout, httpcore.ConnectTimeout) / (len(addresses) - number)
            try:
                inner = self._inner.connect_tcp(address, port, share, *rest, **options)
                return Stream(inner, timeout)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class AsyncStream(httpcore.AsyncNetworkStream):
    """The twin of `Stream`; its calls are cancelled at their deadline."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        """Take the connection."""
        self._inner = inner
        self.held = b""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Write what is held, and read."""
        data, self.held = self.held, b""
        try:
            if data:
                await self._inner.write(data)
        except httpcore.WriteError:
            pass  # It may have answered before it closed.
        return await self._inner.read(min(max_bytes, PIECE))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Hold what is to be written."""
        self.held += buffer

    async def aclose(self) -> None:
        """Close the connection."""
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> AsyncStream:
        """Go on over TLS; close the connection where that is cancelled."""
        try:
            return AsyncStream(await self._inner.start_tls(ssl_context, server_hostname))
        except BaseException:
            await self.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore asks for."""
        return self._inner.get_extra_info(info)


class AsyncBackend(httpcore.AsyncNetworkBackend):
    """The twin of `Backend`."""

    def __init__(self, names: Names) -> None:
        """Take who looks up names."""
        self._names = names
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self, host: str, port: int, timeout: Any = None, *rest: Any, **options: Any
    ) -> AsyncStream:
        """Connect; `timeout` is the `Deadline`."""
        addresses = await asyncio.wrap_future(self._names.addresses(host))
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for number, address in enumerate(addresses):
            # The last one has all that is left, at whose end the call is cancelled.
            others = len(addresses) - number - 1
            share = timeout.left() / (others + 1) if others else None
            try:
                return AsyncStream(
                    await self._inner.connect_tcp(address, port, share, *rest, **options)
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class _Pools:
    """What both kinds of pools know: how an https service is verified, and the proxy."""

    def __init__(self, verify: bool | str | ssl.SSLContext, proxy: str | None) -> None:
        """Take what both clients take. Raises ValueError for a proxy that is none."""
        self._verify, self._proxy_url = verify, proxy
        self._ssl = httpx.create_ssl_context(verify=verify)
        self._pid = os.getpid()
        self._proxy: httpcore.Proxy | None = None
        if proxy is not None:
            try:
                by = httpx.Proxy(proxy)
            except (httpx.InvalidURL, ValueError):
                raise ValueError("proxy is no URL of one, such as http://127.0.0.1:3128") from None
            url = httpcore.URL(str(by.url))
            self._proxy = httpcore.Proxy(url, by.raw_auth)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the settings: another process makes connections of its own."""
        return type(self), (self._verify, self._proxy_url)

    def _options(self, backend: Any) -> dict[str, Any]:
        """Return what httpcore's pools take."""
        return {
            "ssl_context": self._ssl,
            "proxy": self._proxy,
            "network_backend": backend,
            "max_connections": 100,
            "max_keepalive_connections": 20,
            "keepalive_expiry": 5.0,
        }


class Pools(_Pools):
    """The connections of one client: a pool for each process that has it."""

    def __init__(self, verify: bool | str | ssl.SSLContext, proxy: str | None) -> None:
        """Connect to nobody yet."""
        super().__init__(verify, proxy)
        self._pool = self._new()

    def _new(self) -> httpcore.ConnectionPool:
        return httpcore.ConnectionPool(**self._options(Backend()))

    def get(self) -> httpcore.ConnectionPool:
        """Return the pool of this process."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            inherited, self._pool = self._pool, self._new()
            for connection in inherited.connections:
                connection.close()
        return self._pool


class AsyncPools(_Pools):
    """The connections of one asyncio client: a pool for each event loop that has it."""

    def __init__(self, verify: bool | str | ssl.SSLContext, proxy: str | None) -> None:
        """Connect to nobody yet."""
        super().__init__(verify, proxy)
        self._names = Names()
        self._pools: dict[asyncio.AbstractEventLoop, httpcore.AsyncConnectionPool] = {}

    def get(self) -> httpcore.AsyncConnectionPool:
        """Return the pool of the running loop."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._names, self._pools = Names(), {}
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            for other in [other for other in list(self._pools) if other.is_closed()]:
                self._pools.pop(other, None)
            options = self._options(AsyncBackend(self._names))
            pool = self._pools[loop] = httpcore.AsyncConnectionPool(**options)
        return pool


def _left(deadline: Deadline, timeout: type[Exception]) -> float:
    """Return the seconds that are left. Raises `timeout` where none are."""
    left = deadline.left()
    if left <= 0.0:
        raise timeout
    return left
