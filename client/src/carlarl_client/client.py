"""The client and its asyncio twin."""

from __future__ import annotations

import asyncio
import ssl
import time
from types import TracebackType
from typing import Any, Mapping, Sequence, cast

import httpx

from carlarl_client._core import (
    Call,
    Deadline,
    Requests,
    Retries,
    predict_call,
    prediction,
    read,
    transport_error,
)
from carlarl_client.errors import PolicyError
from carlarl_client.types import Observation, Observations, Prediction


class _Asking:
    """What both clients know of their service."""

    def __init__(self, url: str, api_key: str | None, timeout: float, retries: int) -> None:
        Deadline(timeout)
        if retries < 0:
            raise ValueError(f"retries is {retries}: give 0 or more")
        self._requests = Requests(url, api_key)
        self.timeout = timeout
        self.retries = retries

    @property
    def url(self) -> str:
        """The service's URL."""
        return str(self._requests.base)

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self.timeout if timeout is None else timeout)


class PolicyClient(_Asking):
    """Asks a service for actions, on connections that are kept.

    May be used by several threads at a time. All methods raise `PolicyError`; what each kind means
    is in `carlarl_client.errors`.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 1.0,
        retries: int = 2,
        verify: bool | str | ssl.SSLContext = True,
        proxy: str | None = None,
    ) -> None:
        """Connect at the first call.

        Args:
            url: of the service, such as `http://127.0.0.1:8080`.
            api_key: sent as `X-API-Key`.
            timeout: seconds that a call may take, all of its tries together; the service is told.
            retries: how often a call is sent again where that is safe.
            verify: as httpx has it: whether, or by what, an https service is verified.
            proxy: URL of a proxy; those of the environment are not asked.
        """
        super().__init__(url, api_key, timeout, retries)
        self._transport = httpx.HTTPTransport(verify=verify, proxy=proxy)

    def predict(
        self,
        observations: Observations,
        *,
        deterministic: bool = False,
        seed: int | None = None,
        version: str | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Ask for one action for each observation.

        Args:
            observations: one, or 1 to 1000 of them: `Observation`s or the API's dictionaries.
            deterministic: ask for the policy's mean action; else for a sampled one.
            seed: repeats sampled actions, 0 to 2^63-1; the service draws one where absent.
            version: of the policy, such as `v0.2.0`; the active one where absent.
            timeout: seconds, in the place of the client's.
        """
        deadline = self._deadline(timeout)
        call = predict_call(observations, deterministic, seed, version)
        content, headers = self._call(call, deadline)
        return prediction(content, headers, _count(observations), deadline.spent_ms())

    def metadata(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Describe the active version."""
        return self._call(Call("GET", "/metadata"), self._deadline(timeout))[0]

    def versions(self, *, timeout: float | None = None) -> dict[str, Any]:
        """List what is served: `active`, and `versions`, oldest first."""
        return self._call(Call("GET", "/versions"), self._deadline(timeout))[0]

    def health(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Say whether the service can act: `status` is `ok` or `degraded`."""
        return self._call(Call("GET", "/healthz"), self._deadline(timeout))[0]

    def warmup(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Run the active version a few times, so that the next prediction is fast."""
        return self._call(Call("POST", "/warmup"), self._deadline(timeout))[0]

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> PolicyClient:
        """Give itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self.close()

    def _call(self, call: Call, deadline: Deadline) -> tuple[dict[str, Any], httpx.Headers]:
        retries = Retries(call, deadline, self.retries)
        while True:
            try:
                return self._try(call, deadline)
            except PolicyError as error:
                pause = retries.pause(error)
            time.sleep(pause)

    def _try(self, call: Call, deadline: Deadline) -> tuple[dict[str, Any], httpx.Headers]:
        request = self._requests.write(call, deadline)
        try:
            response = self._transport.handle_request(request)
            try:
                parts = []
                for part in cast("httpx.SyncByteStream", response.stream):
                    parts.append(part)
                    if deadline.left() < 0:  # it drips
                        raise deadline.exceeded()
            finally:
                response.close()
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise transport_error(error, request.url, deadline) from error
        content = read(response.status_code, response.headers, b"".join(parts), request.url)
        return content, response.headers


class AsyncPolicyClient(_Asking):
    """The twin of `PolicyClient` for asyncio: the same arguments, results and errors."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 1.0,
        retries: int = 2,
        verify: bool | str | ssl.SSLContext = True,
        proxy: str | None = None,
    ) -> None:
        """Connect at the first call; see `PolicyClient` for the arguments."""
        super().__init__(url, api_key, timeout, retries)
        self._transport = httpx.AsyncHTTPTransport(verify=verify, proxy=proxy)

    async def predict(
        self,
        observations: Observations,
        *,
        deterministic: bool = False,
        seed: int | None = None,
        version: str | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Ask for one action for each observation; see `PolicyClient.predict`."""
        deadline = self._deadline(timeout)
        call = predict_call(observations, deterministic, seed, version)
        content, headers = await self._call(call, deadline)
        return prediction(content, headers, _count(observations), deadline.spent_ms())

    async def metadata(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Describe the active version."""
        return (await self._call(Call("GET", "/metadata"), self._deadline(timeout)))[0]

    async def versions(self, *, timeout: float | None = None) -> dict[str, Any]:
        """List what is served: `active`, and `versions`, oldest first."""
        return (await self._call(Call("GET", "/versions"), self._deadline(timeout)))[0]

    async def health(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Say whether the service can act: `status` is `ok` or `degraded`."""
        return (await self._call(Call("GET", "/healthz"), self._deadline(timeout)))[0]

    async def warmup(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Run the active version a few times, so that the next prediction is fast."""
        return (await self._call(Call("POST", "/warmup"), self._deadline(timeout)))[0]

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def __aenter__(self) -> AsyncPolicyClient:
        """Give itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self.aclose()

    async def _call(self, call: Call, deadline: Deadline) -> tuple[dict[str, Any], httpx.Headers]:
        retries = Retries(call, deadline, self.retries)
        while True:
            try:
                return await asyncio.wait_for(self._try(call, deadline), deadline.get("all"))
            except asyncio.TimeoutError:
                raise deadline.exceeded() from None
            except PolicyError as error:
                pause = retries.pause(error)
            await asyncio.sleep(pause)

    async def _try(self, call: Call, deadline: Deadline) -> tuple[dict[str, Any], httpx.Headers]:
        request = self._requests.write(call, deadline)
        try:
            response = await self._transport.handle_async_request(request)
            body = await response.aread()
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise transport_error(error, request.url, deadline) from error
        content = read(response.status_code, response.headers, body, request.url)
        return content, response.headers


def _count(observations: Observations) -> int:
    one = isinstance(observations, (Mapping, Observation))
    return 1 if one else len(cast("Sequence[Any]", observations))
